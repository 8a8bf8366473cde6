"""Finding, keeping and forgetting the vbds of a host, against a real store, with workers that are none."""
import errno
import itertools

import pytest

from tests.support.manager import BACKEND, FRONTEND, FakeWorker, bench
from xenvbd import claims, libxl
from xenvbd.backend import REFRESHES, Backend
from xenvbd.config import DiskOptions
from xenvbd.errors import ClaimError, NoSuchDisk
from xenvbd.medium import Medium, Policy
from xenvbd.properties import Properties
from xenvbd.rivals import Rival
from xenvbd.store import Store
from xenvbd.target import parse as parse_target
from xenvbd.vdev import parse as parse_vdev


class FakeWorkers:
    """Workers by domain; left: those that an earlier manager left."""

    def __init__(self, loop):
        self.loop, self.by_domid, self.left, self.dismissed = loop, {}, [], []

    def get(self, domid):
        if domid not in self.by_domid:
            self.by_domid[domid] = FakeWorker(self.loop)
            self.by_domid[domid].domid = domid
        return self.by_domid[domid]

    def find_all(self):
        for worker in self.left:
            self.by_domid[worker.domid] = worker
        return self.left

    @property
    def running(self):
        return len(self.by_domid)

    def dismiss(self, domid):
        self.dismissed.append(domid)

    def close(self):
        pass


@pytest.fixture
def b(tmp_path):
    with bench() as made:
        made.tmp = tmp_path
        made.image = tmp_path / "a.img"
        made.image.write_bytes(bytes(1 << 20))
        yield made
        made.backend.close()


def backend(b, *, kinds=("qdisk",), left=(), rival=lambda kind, domid: None):
    """A Backend that has started."""
    workers = FakeWorkers(b.loop)
    workers.left = list(left)
    b.backend = Backend(b.loop, b.store, b.runtime, workers, Policy(), kinds,
                        lambda *names: DiskOptions(), channels=lambda domid, count: [], rival=rival)
    b.store.on_lost = lambda error: None
    b.backend.start()
    b.until(lambda: b.backend.ready)
    b.settle()
    return b.backend


def toolstack(b, devid=51712, **nodes):
    """What libxl writes for a disk of domain 7."""
    back, front = BACKEND.replace("51712", str(devid)), FRONTEND.replace("51712", str(devid))
    values = {"frontend": front, "params": f"aio:{b.image}", "frontend-id": 7, "dev": "xvda", "mode": "r",
              "state": 1, "online": 1} | nodes
    b.toolstack.transaction(lambda tx: [tx.write(f"{back}/{name}", str(value)) for name, value in values.items()])
    for name, value in {"backend": back, "backend-id": 0, "state": 1}.items():
        b.toolstack.write(f"{front}/{name}", str(value))
    for path in (front, f"{front}/state"):
        b.toolstack.set_perms(path, ["n7", "r0"])


def asked(vdev="xvda", target="mem:1M", domid=7):
    return Properties(domid=domid, vdev=parse_vdev(vdev), target=parse_target(target))


def test_an_area_that_is_there_at_the_start_is_served(b):
    toolstack(b)
    backend(b)
    b.until(lambda: b.node("state") == "2")


def test_an_area_that_appears_is_served(b):
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")
    assert b.backend.find("domain7:xvda").domid == 7


@pytest.mark.parametrize("nodes", [{"online": 0}, {"state": 4}, {"state": 6}], ids=str)
def test_an_area_that_is_not_new_is_left_alone(b, nodes):
    backend(b)
    toolstack(b, **nodes)
    b.settle()
    assert not b.backend.devices and b.node("sectors") is None


def test_an_area_of_another_kind_is_left_alone(b):
    backend(b, kinds=("vbd3",))
    toolstack(b)
    b.settle()
    assert b.node("state") == "1"


def test_a_kind_that_a_rival_has_is_refused_by_its_name(b):
    with pytest.raises(ClaimError, match="xen-blkback"):
        backend(b, kinds=("vbd",), rival=lambda kind, domid: Rival("the kernel's xen-blkback", "unload it"))


def test_a_guest_whose_disks_a_rival_serves_is_left_to_it(b, monkeypatch):
    monkeypatch.setattr(claims, "REPORT_SECONDS", 0.05)
    backend(b, rival=lambda kind, domid: Rival("QEMU (process 9)", "x") if domid == 7 else None)
    toolstack(b)
    b.until(lambda: b.backend.claims.refused)
    b.toolstack.write(f"{BACKEND}/state", "2")                  # QEMU has taken it
    b.settle()
    assert not b.backend.devices and b.node("hotplug-error") is None


def test_a_toolstack_is_told_of_a_disk_that_nobody_serves(b, monkeypatch):
    monkeypatch.setattr(claims, "REPORT_SECONDS", 0.05)
    backend(b, rival=lambda kind, domid: Rival("QEMU (process 9)", "x") if domid == 7 else None)
    toolstack(b)
    b.until(lambda: b.node("hotplug-status") == "error")
    assert "QEMU (process 9)" in b.node("hotplug-error")


def test_what_was_refused_is_served_after_a_reload_without_the_rival(b):
    found = [Rival("QEMU (process 9)", "x")]
    backend(b, rival=lambda kind, domid: found[0] if domid == 7 and found else None)
    toolstack(b)
    b.until(lambda: b.backend.claims.refused)
    found.clear()
    b.backend.claim(("qdisk",))
    b.until(lambda: b.node("state") == "2")


def test_a_kind_is_claimed_or_let_go_by_a_reload_and_disks_stay(b):
    backend(b, kinds=("vbd3",))
    toolstack(b)
    b.settle()
    b.backend.claim(("qdisk",))
    b.until(lambda: b.node("state") == "2")
    b.backend.claim(("vbd3",))
    toolstack(b, devid=51728)
    b.settle()
    assert [key[2] for key in b.backend.devices] == [51712]


def test_a_reload_with_a_rival_changes_nothing(b):
    backend(b, rival=lambda kind, domid: Rival("tapback", "x") if kind == "vbd3" else None)
    with pytest.raises(ClaimError, match="tapback"):
        b.backend.claim(("qdisk", "vbd3"))
    assert b.backend.kinds == ("qdisk",)


def test_an_area_that_another_backend_was_faster_with_is_left_as_it_is(b, monkeypatch):
    surveying = Medium.survey

    def slow(*args, **options):
        with Store(b.sim.path(0)) as qemu:
            qemu.write(f"{BACKEND}/state", "2")
        return surveying(*args, **options)

    monkeypatch.setattr(Medium, "survey", slow)
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2" and not b.backend.devices)
    assert b.node("sectors") is None and b.node("hotplug-error") is None


def test_a_disk_of_ours_is_of_the_kind_that_every_xl_knows(b):
    backend(b, kinds=("vbd3",))
    b.backend.create(asked())
    b.until(lambda: b.node("state") == "2")
    assert b.node("type") == "qdisk"


def test_pv_guests_may_be_given_disks_by_xl_if_qdisk_is_claimed(b):
    backend(b)
    b.until(lambda: b.toolstack.exists(libxl.device_model(7)))


def test_an_hvm_guests_own_qemu_keeps_its_disks(b):
    b.toolstack.write("/libxl/7/type", "hvm")
    backend(b)
    toolstack(b)
    b.until(lambda: b.backend.claims.refused)
    assert not b.toolstack.exists(libxl.device_model(7)) and "HVM" in next(iter(b.backend.claims.refused.values()))


def test_a_failed_device_is_tried_again_when_its_area_is_made_again(b):
    backend(b)
    toolstack(b, params="aio:/nonexistent")
    b.until(lambda: b.node("hotplug-status") == "error")
    b.toolstack.rm(BACKEND)
    b.until(lambda: not b.backend.devices)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")


def test_an_area_replaced_by_a_new_one_is_a_new_device(b):
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")
    first = b.backend.find("7:51712")

    def replace(tx):
        tx.rm(BACKEND)
        tx.rm(FRONTEND)

    b.toolstack.transaction(replace)
    toolstack(b)
    b.until(lambda: b.node("state") == "2" and b.backend.devices)
    assert b.backend.find("7:51712") is not first and first.gone


def test_a_disk_is_found_by_names_and_by_numbers(b):
    backend(b)
    device = b.backend.create(asked())
    for text in ("domain7:xvda", "7:51712", "7:xvda", "domain7:51712"):
        assert b.backend.find(text) is device
    for text in ("xvda", "7:xvdb", "8:xvda", "", ":"):
        with pytest.raises(NoSuchDisk):
            b.backend.find(text)


def test_a_vdev_that_is_taken_is_refused_by_name(b):
    backend(b)
    b.backend.create(asked())
    with pytest.raises(ClaimError, match="domain7:xvda"):
        b.backend.create(asked())
    toolstack(b, devid=51728)
    with pytest.raises(ClaimError, match="51728"):
        b.backend.create(asked("xvdb"))


def test_a_domain_that_does_not_exist_has_no_disk(b):
    backend(b)
    with pytest.raises(NoSuchDisk):
        b.backend.create(asked(domid=9))


def test_a_domain_s_worker_is_dismissed_with_its_last_disk(b):
    backend(b)
    first, second = b.backend.create(asked()), b.backend.create(asked("xvdb"))
    b.until(lambda: first.published and second.published)
    first.unplug(force=True)
    b.until(lambda: first.gone)
    assert b.backend.workers.dismissed == []
    second.unplug(force=True)
    b.until(lambda: second.gone)
    assert b.backend.workers.dismissed == [7]


def test_a_dead_domain_s_disks_go_and_the_next_of_its_number_starts_afresh(b):
    backend(b)
    device = b.backend.create(asked())
    b.until(lambda: device.published)
    b.sim.remove_domain(7)
    b.until(lambda: device.gone)
    assert not b.toolstack.exists(BACKEND)
    b.sim.add_domain(7, "another")
    new = b.backend.create(asked())
    b.until(lambda: new.published)
    assert new.name == "another:xvda" and new.domain != device.domain


def test_a_domain_replaced_at_once_by_one_of_its_number_loses_its_disks(b):
    backend(b)
    device = b.backend.create(asked())
    b.until(lambda: device.published)
    b.sim.remove_domain(7)
    b.sim.add_domain(7)
    b.until(lambda: device.gone)


def test_a_guest_that_writes_without_end_gets_its_turns_and_no_more(b):
    backend(b)
    device = b.backend.create(asked())
    b.until(lambda: device.published)
    visits = itertools.count()
    refresh, device.refresh = device.refresh, lambda: (next(visits), refresh())
    for number in range(4 * REFRESHES):
        b.guest.store.write(f"{FRONTEND}/state", "1" if number % 2 else "2")
        b.loop.run_once(0)
    assert next(visits) <= 2 * REFRESHES
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")


def test_a_store_that_drops_its_connections_is_looked_through_when_it_is_back(b):
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")
    b.sim.drop_connections(0)
    b.until(lambda: not b.store.connected)
    b.guest.connect()
    b.toolstack.reconnect()
    toolstack(b, devid=51728)
    b.settle()
    assert b.node("state") == "2"
    b.store.reconnect()
    b.backend.store_returned()
    b.until(lambda: b.node("state") == "4" and b.toolstack.get(f"{BACKEND[:-5]}51728/state") == b"2")


def test_a_store_that_lost_its_tree_does_not_end_a_disk(b):
    backend(b)
    device = b.backend.create(asked())
    b.until(lambda: device.published)
    b.guest.connect()
    b.until(lambda: device.connected)
    for path in ("/local/domain/0/backend", "/local/domain/0/data", "/local/domain/7"):
        b.toolstack.rm(path)
    b.store.reconnect()
    b.backend.store_returned()
    b.settle()
    assert device.connected and b.backend.workers.get(7).calls == ["connect"]
    device.unplug(force=True)
    b.until(lambda: device.gone)


def serving(b, *keys):
    """A worker that an earlier manager left."""
    worker = FakeWorker(b.loop)
    worker.domid = 7
    worker.planes = set(keys)
    answer = worker.call

    def call(verb, done, fds=(), **params):
        if verb == "list":
            b.loop.soon(lambda: done({"disks": dict.fromkeys(worker.planes, "running")} | worker.answer))
        else:
            answer(verb, done, fds, **params)

    worker.call = call
    return worker


def connected(b):
    """A manager with a connected disk; the key of the disk."""
    backend(b)
    device = b.backend.create(asked())
    b.until(lambda: device.published)
    b.guest.connect()
    b.until(lambda: device.connected)
    b.guest.state(4)
    return device


def restart(b, *left):
    b.backend.close()
    b.store.reconnect()
    b.store._watches.clear()
    return backend(b, left=left)


def test_a_later_manager_takes_over_what_a_worker_serves(b):
    device = connected(b)
    worker = serving(b, device.key)
    restart(b, worker)
    b.until(lambda: b.backend.devices)
    again = b.backend.find("domain7:xvda")
    assert again.connected and again.created and b.node("state") == "4" and worker.calls == []
    b.guest.state(6)
    b.until(lambda: b.node("state") == "6")
    assert worker.calls == ["disconnect"]


def test_a_later_manager_serves_what_was_only_published(b):
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")
    restart(b)
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")


def test_a_disk_without_its_worker_stays_connected_and_says_why_it_does_not_work(b):
    connected(b)
    restart(b)
    b.until(lambda: b.backend.devices)
    device = b.backend.find("domain7:xvda")
    assert b.node("state") == "4" and device.failed and not device.connected


def test_what_went_while_no_manager_was_there_is_let_go(b):
    device = connected(b)
    worker = serving(b, device.key, "qdisk-7-99")
    b.backend.close()
    b.sim.remove_domain(7)
    restart(b, worker)
    b.until(lambda: worker.calls == ["disconnect", "disconnect"] and not b.backend.devices)
    assert not list(b.runtime.records()) and not b.toolstack.exists(BACKEND)


def test_a_plane_of_a_worker_that_ended_meanwhile_is_gone_with_it(b):
    """No other worker is started to be told, which could fail and keep the manager from serving anybody."""
    worker = serving(b, "qdisk-7-99")
    really = worker.call

    def call(verb, done, fds=(), **params):
        really(verb, lambda result: (b.backend.workers.by_domid.clear(), done(result)), fds, **params)

    worker.call = call
    backend(b, left=[worker])
    assert worker.calls == [] and not b.backend.workers.by_domid


def test_what_there_is_no_process_for_is_taken_over_later(b, monkeypatch):
    device = connected(b)
    worker, get, refusals = serving(b, device.key), FakeWorkers.get, [OSError(errno.EAGAIN, "no process")]

    def refuse(self, domid):
        if refusals:
            raise refusals.pop()
        return get(self, domid)

    monkeypatch.setattr(FakeWorkers, "get", refuse)
    monkeypatch.setattr("xenvbd.backend.AGAIN_SECONDS", 0.02)
    restart(b, worker)
    b.until(lambda: b.backend.devices and b.backend.find("domain7:xvda").connected)
    assert b.loop.failures == 0 and not refusals


def test_what_a_worker_says_of_its_planes_is_kept_whatever_it_says(b):
    device = connected(b)
    worker = serving(b, device.key)
    worker.answer = {"engine": {device.key: "threads"}, "persistent": "nonsense"}
    restart(b, worker)
    b.until(lambda: b.backend.devices)
    assert worker.told == {device.key: {"engine": "threads"}}
    assert b.backend.find("domain7:xvda").serving == "threads"


def test_a_kind_that_is_claimed_no_more_is_served_to_its_end(b):
    device = connected(b)
    b.backend.close()
    b.store.reconnect()
    b.store._watches.clear()
    backend(b, kinds=("vbd3",), left=[serving(b, device.key)])
    b.until(lambda: b.backend.devices)
    toolstack(b, devid=51728)
    b.settle()
    assert b.toolstack.get(f"{BACKEND[:-5]}51728/state") == b"1", "a new one is claimed"
    b.guest.state(6)
    b.until(lambda: b.node("state") == "6")


def test_a_record_that_cannot_be_read_does_not_keep_the_manager_from_serving(b):
    b.runtime.save("qdisk-7-51712", {"kind": "of another version"})
    (b.runtime.path / "qdisk-7-51728.json").write_text("{")
    toolstack(b)
    backend(b)
    b.until(lambda: b.node("state") == "2")


def test_in_a_driver_domain_the_backend_removes_its_own_area_and_only_that(tmp_path):
    """Domain 5 may neither ask who is introduced nor write the frontend's area."""
    (tmp_path / "a.img").write_bytes(bytes(1 << 20))
    with bench(domids=(0, 5, 7)) as b:
        b.image = tmp_path / "a.img"
        b.loop.forget(b.store.fileno())
        b.store.close()
        b.store = Store(b.sim.path(5))
        b.loop.read(b.store.fileno(), b.store.dispatch)
        b.toolstack.write("/local/domain/5/backend", "")
        b.toolstack.set_perms("/local/domain/5/backend", ["n5"])
        backend(b)
        back = "/local/domain/5/backend/qdisk/7/51712"
        values = {"frontend": FRONTEND, "params": f"aio:{b.image}", "frontend-id": 7, "mode": "r", "state": 1,
                  "online": 1}
        for area, perms in ((back, ["n5", "r7"]), (FRONTEND, ["n7", "r5"])):
            b.toolstack.mkdir(area)
            b.toolstack.set_perms(area, perms)
        b.toolstack.write(f"{FRONTEND}/state", "1")
        b.toolstack.transaction(lambda tx: [tx.write(f"{back}/{name}", str(v)) for name, v in values.items()])
        b.until(lambda: b.node("state", back) == "2")
        b.guest.connect()
        b.until(lambda: b.node("state", back) == "4")
        b.toolstack.transaction(lambda tx: (tx.write(f"{back}/online", "0"), tx.write(f"{back}/state", "5")))
        b.until(lambda: b.node("state", back) == "5")
        b.guest.state(6)
        b.until(lambda: not b.toolstack.exists(back))
        assert b.toolstack.exists(FRONTEND) and not b.backend.devices
        b.backend.close()


def test_an_area_removed_while_no_manager_was_there_ends_its_plane(b):
    device = connected(b)
    worker = serving(b, device.key)
    b.backend.close()
    b.toolstack.rm(BACKEND)
    restart(b, worker)
    b.until(lambda: worker.calls == ["disconnect"])
    b.until(lambda: not b.backend.devices)
    assert not b.toolstack.exists(BACKEND)


def test_attachments_that_are_over_leave_no_watch_and_no_file(b):
    backend(b)
    before = len(b.store._watches)
    for _ in range(20):
        device = b.backend.create(asked())
        b.until(lambda: device.published)           # noqa: B023
        b.guest.connect()
        b.until(lambda: device.connected)           # noqa: B023
        device.unplug(force=True)
        b.until(lambda: device.gone)                # noqa: B023
    assert len(b.store._watches) == before and list(b.runtime.path.iterdir()) == []


def test_a_worker_is_told_of_by_the_disks_that_it_has_on_an_image(b):
    backend(b)
    toolstack(b)
    b.until(lambda: b.node("state") == "2")
    worker = b.backend.workers.get(7)
    b.backend.workers.by_domid[7] = worker
    assert b.backend.host.disks_of(worker.pid, b.image.stat()) == ["domain7:xvda"]
    assert b.backend.host.disks_of(worker.pid, b.image.parent.stat()) == []
    assert b.backend.host.disks_of(worker.pid + 1, b.image.stat()) == []
