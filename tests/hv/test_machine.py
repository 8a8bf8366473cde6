"""The simulated machine as a toolstack sees it: domains come and go, processes join, tests look on."""
import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.growth import growing, mappings
from xenvbd import hv
from xenvbd.errors import HypervisorError, NoHypervisor
from xenvbd.hv import evtchn, grant, sim

TOP = Path(__file__).parents[2]


@contextmanager
def refused(code):
    with pytest.raises(HypervisorError) as caught:
        yield
    assert caught.value.errno == code


def test_a_new_machine_has_domain_0(tmp_path):
    with sim.Machine.create(tmp_path / "new") as machine:
        assert machine.domains() == [0]
        assert machine.dir == str(tmp_path / "new")


def test_a_machine_is_made_once(machine):
    with refused(errno.EEXIST):
        sim.Machine.create(machine.dir)
    with sim.Machine.open(machine.dir) as again:
        assert again.domains() == [0, 1]


def test_domains_are_added_and_removed_by_number(machine):
    machine.add_domain(7)
    with refused(errno.EEXIST):
        machine.add_domain(7)
    machine.remove_domain(1)
    with refused(errno.ESRCH):
        machine.remove_domain(1)
    assert machine.domains() == [0, 7]


@pytest.mark.parametrize("domid", [-1, 0x7ff0, 70000])
def test_numbers_that_no_domain_can_have_are_refused(machine, domid):
    with refused(errno.EINVAL):
        machine.add_domain(domid)


def test_joining_says_who_one_is_and_where_the_store_is(machine):
    front = hv.open(f"sim:{machine.dir}", 1)
    assert (front.spec, front.domid) == (f"sim:{machine.dir}", 1)
    assert front.store_path == f"{machine.dir}/store.1"
    assert hv.open(f"sim:{machine.dir}").domid == 0


def test_one_joins_as_a_domain_that_is_there(machine):
    with refused(errno.ESRCH):
        machine.join(5)


def test_where_there_is_no_machine_none_is_joined(tmp_path):
    with refused(errno.ENOENT):
        hv.open(f"sim:{tmp_path}")
    (tmp_path / "machine").write_bytes(b"something else")
    with refused(errno.EPROTO):
        hv.open(f"sim:{tmp_path}")


@pytest.mark.parametrize("spec", ["", "sim", "sim:", "kvm", "Xen", "xen:"])
def test_other_machines_are_refused_by_name(spec):
    with pytest.raises(HypervisorError, match=f'"{spec}" is no machine'):
        hv.open(spec)


@pytest.mark.skipif(os.path.exists("/dev/xen/evtchn"), reason="this host runs Xen")
def test_without_xen_the_missing_device_is_named():
    with pytest.raises(NoHypervisor) as caught:
        hv.open("xen")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.path == "/dev/xen/evtchn"


def test_a_simulated_machine_needs_none_of_xens_libraries(machine):
    code = (f"from xenvbd import hv; hv.open('sim:{machine.dir}')\n"
            "from xenvbd.hv import evtchn, grant\n"
            "assert 'libxen' not in open('/proc/self/maps').read()")
    subprocess.run([sys.executable, "-c", code], cwd=TOP, check=True)


def test_a_domains_memory_is_kept_out_of_cores(machine, table, sharer):
    with sharer.share(0, 1) as page, table.map(1, page.refs):
        table.read(1, page.refs[0])
        smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
        guest = [flags for text, flags in pairwise(smaps) if f"{machine.dir}/domain." in text]
        assert guest
        assert all(" dd" in flags.splitlines()[0] for flags in guest)


def test_only_a_machine_makes_hypervisors_and_only_handles_make_pages():
    for cls in (sim.Machine, sim.SimHypervisor, grant.Mapping, grant.Shared):
        with pytest.raises(TypeError):
            cls()
    for cls in (evtchn.EventChannels, grant.GrantTable, grant.GrantSharer):
        with pytest.raises(TypeError):
            cls(None)


def test_a_closed_machine_says_so(machine):
    machine.close()
    machine.close()
    with refused(errno.EBADF):
        machine.domains()


def test_looking_at_a_domain_that_is_not_there_fails(machine):
    for look in (machine.ports, machine.grants):
        with refused(errno.ESRCH):
            look(9)
    assert machine.mappings(9) == []


def test_domids_can_be_used_again_for_ever_without_a_leak(machine):
    """XSA-417: nothing of a domain is found in the next one of that number."""
    back = machine.join(0)
    table = grant.GrantTable(back)
    before = len(os.listdir("/proc/self/fd"))

    def cycle():
        machine.add_domain(2)
        sharer = grant.GrantSharer(machine.join(2))
        page = sharer.share(0, 1)
        assert table.read(2, page.refs[0]) == bytes(4096)
        memoryview(page)[0] = 1
        machine.remove_domain(2)
        sharer.close()

    assert growing(lambda: [cycle() for _ in range(100)], mappings) == {}
    assert table.try_read(2, 8, 0, bytearray(1)) == -2
    assert len(os.listdir("/proc/self/fd")) <= before
    assert sorted(name.split(".")[0] for name in os.listdir(machine.dir)) == ["domain", "domain", "machine"]


def test_a_thousand_cycles_leave_no_descriptor_and_no_mapping(machine):
    back, front = machine.join(0), machine.join(1)

    def cycle():
        with (evtchn.EventChannels(back) as ours, evtchn.EventChannels(front) as theirs,
              grant.GrantTable(back) as table, grant.GrantSharer(front) as sharer):
            port = theirs.bind_unbound(0)
            ours.notify(ours.bind_interdomain(1, port))
            pages = sharer.share(0, 2)
            table.map(1, pages.refs)
            table.read(1, pages.refs[0])

    cycle()
    before = os.listdir("/proc/self/fd")
    assert growing(lambda: [cycle() for _ in range(500)], mappings) == {}
    assert os.listdir("/proc/self/fd") == before
    assert machine.ports(0) == machine.ports(1) == machine.mappings(1) == machine.grants(1) == []
    assert sorted(name.split(".")[0] for name in os.listdir(machine.dir)) == ["domain", "domain", "machine"]
