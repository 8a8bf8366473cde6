"""Processes of the machine die by SIGKILL at any time; the others find their ports unbound, and go on."""
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from xenvbd.hv import evtchn, grant

HERE = Path(__file__).parent
TOP = HERE.parents[1]
BACKEND = """
channels, table = evtchn.EventChannels(me), grant.GrantTable(me)
port, gref = map(int, hear())
ours = channels.bind_interdomain(1, port)
mapping = table.map(1, [gref])
say(ours)
while True:
    select.select([channels], [], [])
    while (fired := channels.pending()) is not None:
        memoryview(mapping)[0] += 1
        channels.unmask(fired)
        channels.notify(fired)
"""


def test_two_processes_pass_events_and_pages(machine, spawn, front, sharer, wait):
    page, port = sharer.share(0, 1), front.bind_unbound(0)
    backend = spawn(0, BACKEND)
    backend.say(port, *page.refs)
    assert backend.hear()
    for turn in range(1, 100):
        assert wait(front) == port
        assert memoryview(page)[0] == turn
        front.unmask(port)
        front.notify(port)


def test_a_killed_backend_leaves_the_frontend_unbound_and_nothing_mapped(machine, spawn, front, sharer):
    page, port = sharer.share(0, 1), front.bind_unbound(0)
    backend = spawn(0, BACKEND)
    backend.say(port, *page.refs)
    backend.hear()
    assert machine.mappings(1) == [(backend.pid, page.refs[0])]
    backend.kill()
    front.notify(port)                      # nobody hears it
    assert machine.mappings(1) == []
    assert machine.ports(0) == []
    assert next(info for info in machine.ports(1) if info.port == port).state == "unbound"


def test_another_backend_binds_to_the_port_of_a_killed_one(spawn, front, sharer, wait):
    page, port = sharer.share(0, 1), front.bind_unbound(0)
    for turn in range(1, 4):
        backend = spawn(0, BACKEND)
        backend.say(port, *page.refs)
        assert backend.hear()
        assert wait(front) == port
        assert memoryview(page)[0] == turn
        backend.kill()
        front.unmask(port)


def test_a_killed_frontends_pages_stay_until_its_domain_goes(machine, spawn, table):
    frontend = spawn(1, """
page = grant.GrantSharer(me).share(0, 1)
memoryview(page)[:5] = b'alive'
say(*page.refs); hear()
""")
    gref, = frontend.numbers()
    frontend.kill()
    assert table.read(1, gref, 0, 5) == b"alive"
    machine.remove_domain(1)
    assert table.try_read(1, gref, 0, bytearray(5)) == -2


def test_a_process_may_die_after_its_domain_was_replaced(machine, spawn):
    frontend = spawn(1, "channels = evtchn.EventChannels(me); say(channels.bind_unbound(0)); hear()")
    frontend.hear()
    machine.remove_domain(1)
    machine.add_domain(1)
    with evtchn.EventChannels(machine.join(1)) as successor:
        port = successor.bind_unbound(0)
        frontend.kill()
        assert [info.port for info in machine.ports(1)] == [port]
    assert not [name for name in os.listdir(machine.dir) if name.startswith("evtchn.")]


def test_a_child_that_was_forked_does_not_close_what_its_parent_has(machine, back, front):
    ours = back.bind_interdomain(1, front.bind_unbound(0))
    child = os.fork()
    if not child:
        back.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert [info.port for info in machine.ports(0)] == [ours]
    assert back.pending() == ours


# -- The machine stays usable

def compiled(directory, source, *options):
    """A C program that joins a machine without Python."""
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    subprocess.run(["cc", "-O2", "-g", "-std=gnu11", *warnings, "-D_GNU_SOURCE", "-D__XEN_TOOLS__",
                    f"-I{TOP}/include", *options, HERE / source, *TOP.glob("xenvbd/hv/machine*.c"),
                    "-pthread", "-o", directory / "program"], check=True)
    return directory / "program"


@pytest.fixture(scope="session")
def exercise(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("exercise"), "exercise.c")


@pytest.fixture(scope="session")
def crashing(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("crashing"), "exercise.c", "-include", HERE / "crashpoint.h")


def test_the_machine_works_without_python(machine, exercise):
    for what, count in (("pingpong", "1000"), ("copy", "100")):
        command = [exercise, machine.dir, what, count]
        assert float(subprocess.run(command, timeout=30, check=True, stdout=subprocess.PIPE).stdout) > 0
    assert machine.ports(0) == machine.ports(1) == machine.grants(1) == []


def test_the_c_interface_keeps_what_its_header_promises(machine, tmp_path):
    subprocess.run([compiled(tmp_path, "contract.c"), machine.dir], timeout=30, check=True)


def test_no_event_is_lost_when_several_processes_notify_one_handle(machine, exercise):
    """A lost one would let them sleep for ever."""
    subprocess.run([exercise, machine.dir, "fan", "5000"], timeout=60, check=True)


def check_usable(machine):
    """Everything works, and nothing of the dead is left but the pages of domain 1."""
    with (evtchn.EventChannels(machine.join(0)) as ours, evtchn.EventChannels(machine.join(1)) as theirs,
          grant.GrantTable(machine.join(0)) as table, grant.GrantSharer(machine.join(1)) as sharer):
        port = theirs.bind_unbound(0)
        bound = ours.bind_interdomain(1, port)
        assert ours.pending() == bound
        ours.notify(bound)
        assert theirs.pending() == port
        page = sharer.share(0, 1)
        table.write(1, page.refs[0], 0, b"works")
        with table.map(1, page.refs) as mapping:
            assert bytes(memoryview(mapping)[:5]) == b"works"


def prepare(machine, back):
    """What exercise expects of domain 0."""
    assert [back.bind_unbound(1) for _ in range(8)] == list(range(1, 9))
    for gref in range(8, 40):
        machine.grant(0, gref, 1)


def check_forgotten(machine):
    """Domain 1's ports are closed, domain 0's wait for it again, and it has nothing mapped."""
    assert machine.mappings(0) == machine.ports(1) == []
    assert [info[:3] for info in machine.ports(0)] == [(port, "unbound", 1) for port in range(1, 9)]


def test_a_process_may_die_before_any_of_its_stores(machine, crashing, back):
    """Every store to shared memory in a life that does everything once is a place to be killed before; and
    the next process may be killed while it cleans up after the first."""
    def live(place):
        command = [crashing, machine.dir, "script", str(place)]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode

    prepare(machine, back)
    place = 1
    while (status := live(place)) == -signal.SIGKILL:
        assert live(place % 16 + 1) == -signal.SIGKILL
        check_forgotten(machine)
        check_usable(machine)
        if 5 in machine.domains():
            machine.remove_domain(5)
        place += 1
    assert status == 0
    assert place > 60
    assert sum(name.startswith("evtchn.") for name in os.listdir(machine.dir)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_a_process_takes_nobody_with_it(machine, exercise, back, seed):
    """Thirty kills of processes that bind, notify, share, map, open and close as fast as they can."""
    chance = random.Random(seed)
    prepare(machine, back)
    for kill in range(30):
        processes = [subprocess.Popen([exercise, machine.dir, "hammer", str(1000 * seed + 2 * kill + number)],
                                      stdout=subprocess.PIPE) for number in range(1 + kill % 2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"hammering\n"
        end = time.monotonic() + chance.random() * 0.01
        while time.monotonic() < end:
            if (port := back.pending()) is not None:
                back.unmask(port)
                back.notify(port)
        for process in processes:
            assert process.poll() is None, "it stopped by itself"
            process.kill()
        for process in processes:
            process.wait()
            process.stdout.close()
        check_forgotten(machine)
        check_usable(machine)
    assert sum(name.startswith("evtchn.") for name in os.listdir(machine.dir)) == 1
