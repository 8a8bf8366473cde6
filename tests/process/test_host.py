"""Manager, workers, store and guests as processes: data through it all, and each of them killed."""
import contextlib
import errno
import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.growth import growing, mappings
from tests.support.host import wait
from xenvbd import __version__
from xenvbd.errors import Error, exit_code
from xenvbd.store import Store
from xenvbd.store_sim import domain as toolstack

LOAD = ("--rw", "randrw", "--bs", 4096, "--iodepth", 16, "--verify")
DEVID, SECOND = 51712, 51728


def load(host, domid, *arguments, devid=DEVID):
    """A guest that has connected and runs a load."""
    return host.guest(domid, devid, *LOAD, *arguments).connected()


def progresses(host, domid):
    """Whether the guest's requests are being served now."""
    def ops():
        return host.client.call("show", disk=f"{domid}:xvda")["stats"]["write"]["ops"]
    before = ops()
    return wait(lambda: ops() > before, f"domain {domid} goes on")


def attach_two(host):
    """Two guests, each with a disk and under load until it is told to stop."""
    for domid in (1, 2):
        host.attach(domid, host.image(f"{domid}.img"), wait=False)
    return [load(host, domid, "--seconds", "60s") for domid in (1, 2)]


def stop(guest):
    """End a guest's load; its result, everything verified."""
    guest.process.terminate()
    result = guest.finish()
    assert result["errors"] == 0 and result["ops"] > 0
    return result


def make_areas(store, back, front, params):
    """What libxl writes for a disk of domain 1, in one transaction."""
    def add(tx):
        for area, perms in ((back, ["n0", "r1"]), (front, ["n1", "r0"])):
            tx.mkdir(area)
            tx.set_perms(area, perms)
        for name, value in {"frontend": front, "params": params, "frontend-id": "1", "online": "1", "removable": "0",
                            "bootable": "1", "state": "1", "dev": "xvda", "type": "qdisk", "mode": "w",
                            "device-type": "disk", "discard-enable": "1"}.items():
            tx.write(f"{back}/{name}", value)
        for name, value in {"backend": back, "backend-id": "0", "state": "1", "virtual-device": str(DEVID),
                            "device-type": "disk"}.items():
            tx.write(f"{front}/{name}", value)
    store.transaction(add)


# Serving

def test_what_a_guest_writes_is_in_the_image_and_a_detach_leaves_nothing(host):
    image = host.image()
    host.attach(1, image, wait=False)
    guest = host.guest(1, DEVID, "--rw", "randrw", "--count", 2000, "--bs", 16384, "--prepare", "--digest")
    guest.finish()
    with open(image, "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == guest.events("digest")[-1]["sha256"]
    assert host.client.call("detach", disk="1:xvda") == {"disk": "domain1:xvda"}
    assert host.client.call("list") == {"disks": []}
    assert {path.name for path in (host.path / "run").iterdir()} <= {"manager.lock", "control.sock", "worker-1.sock"}


def test_a_disk_of_domain_0_itself_is_served(host):
    host.attach(0, host.image(), wait=False)
    guest = host.guest(0, DEVID, "--rw", "randrw", "--count", 100, "--verify")
    assert guest.finish()["errors"] == 0


def test_attach_says_connected_once_the_guest_is(host):
    host.attach(1, host.image(), wait=False)
    guest = load(host, 1, "--seconds", "60s")
    shown = host.client.call("show", disk="domain1:xvda")
    assert shown["state"] == {"backend": "Connected", "frontend": "Connected"} and shown["note"] == ""
    assert shown["pid"] == host.worker(1) and shown["engine"] in ("uring", "threads")
    stop(guest)


def test_attach_tells_what_it_waited_for_in_vain(host):
    with pytest.raises(Error) as caught:
        host.attach(1, host.image(), timeout=0.3)
    assert exit_code(caught.value) == 4
    assert "/local/domain/1/device/vbd/51712/state is Initialising" in str(caught.value)


@pytest.mark.parametrize("domid, target, status, words", [
    (9, "mem:1M", 3, "no domain 9"),
    (1, "/nonexistent", 7, "outside the allowed places"),
    (1, "{dir}/nonexistent", 1, "nonexistent"),
    (1, "qcow2:/x", 2, "qcow2")])
def test_an_attach_that_cannot_be_is_refused_with_its_reason(host, domid, target, status, words):
    with pytest.raises(Error, match=words) as caught:
        host.attach(domid, target.format(dir=host.directory))
    assert exit_code(caught.value) == status
    assert host.client.call("list") == {"disks": []}


def test_a_vdev_and_an_image_that_are_taken_are_refused_by_name(host):
    image = host.image()
    host.attach(1, image, wait=False)
    with pytest.raises(Error, match="domain1:xvda") as vdev:
        host.attach(1, "mem:1M")
    with pytest.raises(Error, match="it is the image of domain1:xvda; detach it there first") as target:
        host.attach(2, image)
    assert exit_code(vdev.value) == exit_code(target.value) == 7


def test_a_free_vdev_is_chosen(host):
    names = [host.attach(1, "mem:1M", vdev=None, wait=False)["name"] for _ in range(3)]
    assert names == ["xvda", "xvdb", "xvdc"]


def test_a_polite_detach_waits_for_the_guest_and_a_forced_one_does_not(host):
    host.attach(1, "mem:1M", wait=False)
    guest = load(host, 1, "--seconds", "60s", "--hold")
    guest.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Error, match="--force") as caught:
        host.client.call("detach", disk="1:xvda", timeout=0.3)
    assert exit_code(caught.value) == 4
    host.client.call("detach", disk="1:xvda", force=True)
    assert host.client.call("list") == {"disks": []}


def test_a_toolstack_s_disk_is_served_and_removed_as_libxl_does_it(host):
    image = host.image()
    back, front = f"/local/domain/0/backend/qdisk/1/{DEVID}", f"/local/domain/1/device/vbd/{DEVID}"
    with Store(f"{host.directory}/store.0") as store:
        make_areas(store, back, front, f"aio:{image}")
        guest = load(host, 1, "--count", 500)
        assert guest.finish()["verified"] > 0
        store.transaction(lambda tx: (tx.write(f"{back}/online", "0"), tx.write(f"{back}/state", "5")))
        wait(lambda: store.read(f"{back}/state") == b"6", "the backend is Closed")
        store.rm(front)
        store.rm(back)
        wait(lambda: host.client.call("list") == {"disks": []}, "the disk is forgotten")
        assert not store.exists(back)


# Killing

def test_a_killed_guest_does_not_harm_another_and_its_domain_s_end_frees_its_image(host):
    victim, other = attach_two(host)
    victim.kill()
    assert progresses(host, 2)
    with Store(f"{host.directory}/store.0") as store:
        toolstack.destroy(store, 1)
    host.machine.remove_domain(1)
    wait(lambda: [disk["domid"] for disk in host.client.call("list")["disks"]] == [2], "domain 1's disk is gone")
    host.attach(2, f"{host.directory}/1.img", vdev="xvdb", wait=False)
    stop(other)


def test_a_killed_manager_leaves_the_guests_served_and_the_next_takes_over(host):
    guests = attach_two(host)
    workers = [host.worker(1), host.worker(2)]
    host.manager.kill()
    host.manager.wait(30)
    before = [guest.events("progress")[-1]["ops"] if guest.events("progress") else 0 for guest in guests]
    wait(lambda: all(guest.events("progress")[-1:] and guest.events("progress")[-1]["ops"] > ops
                     for guest, ops in zip(guests, before, strict=True)), "the guests go on")
    host.start_manager()
    wait(lambda: len(host.client.call("list")["disks"]) == 2, "the disks are taken over")
    assert [host.worker(1), host.worker(2)] == workers
    for domid, guest in enumerate(guests, 1):
        assert progresses(host, domid)
        stop(guest)
        host.client.call("detach", disk=f"{domid}:xvda")
    host.attach(1, host.image("1.img"), wait=False)
    load(host, 1, "--count", 100).finish()


def test_a_manager_that_is_stopped_politely_leaves_the_guests_served_too(host):
    guests = attach_two(host)
    host.manager.terminate()
    assert host.manager.wait(20) == 0
    host.start_manager()
    wait(lambda: len(host.client.call("list")["disks"]) == 2, "the disks are taken over")
    for domid, guest in enumerate(guests, 1):
        assert progresses(host, domid)
        stop(guest)


def test_a_killed_store_stops_nobody_and_is_used_again_when_it_is_back(host):
    guests = attach_two(host)
    host.store.kill()
    host.store.wait(30)
    wait(lambda: not host.client.call("ping")["store"], "the manager has noticed")
    for domid in (1, 2):
        assert progresses(host, domid)
    host.start_store()
    wait(lambda: host.client.call("ping")["store"], "the manager is back at the store")
    for domid in (1, 2):
        assert progresses(host, domid)
    host.attach(1, "mem:1M", vdev="xvdb", wait=False)
    load(host, 1, "--count", 200, devid=51728).finish()
    for guest in guests:
        stop(guest)


def test_what_happens_while_the_store_is_away_is_done_when_it_is_back(host):
    """An attach is refused and leaves nothing; a detach waits; drivers and domains that end meanwhile are let go."""
    guests = attach_two(host)
    host.attach(1, host.image("b.img"), vdev="xvdb", wait=False)
    closing = host.guest(1, SECOND, *LOAD, "--seconds", "60s").connected()
    host.store.kill()
    host.store.wait(30)
    wait(lambda: not host.client.call("ping")["store"], "the manager has noticed")
    with pytest.raises(Error, match="xenstored") as caught:
        host.attach(1, host.image("c.img"), vdev="xvdc", wait=False)
    assert caught.value.errno == errno.ENOTCONN
    answers = []
    detaching = threading.Thread(target=lambda: answers.append(
        host.client.call("detach", disk="1:xvdb", force=True, timeout=30)))
    detaching.start()
    closing.kill()
    guests[1].kill()
    assert progresses(host, 1) and len(host.client.call("list")["disks"]) == 3 and detaching.is_alive()
    host.start_store()
    with Store(f"{host.directory}/store.0") as store:
        toolstack.destroy(store, 2)
        wait(lambda: [disk["name"] for disk in host.client.call("list")["disks"]] == ["xvda"], "the others are gone")
        detaching.join(30)
        assert answers == [{"disk": "domain1:xvdb"}]
        assert not store.exists(f"/local/domain/0/backend/qdisk/1/{SECOND}")
        assert not store.exists("/local/domain/0/backend/qdisk/2")
    host.attach(1, host.image("c.img"), vdev="xvdc", wait=False)
    assert progresses(host, 1)
    stop(guests[0])


def test_a_killed_worker_is_followed_by_another_and_no_guest_sees_it(host):
    guests = attach_two(host)
    for _ in range(3):
        killed = host.worker(1)
        os.kill(killed, signal.SIGKILL)
        wait(lambda killed=killed: host.worker(1) not in (None, killed), "another worker")
        assert progresses(host, 1) and progresses(host, 2)
        assert host.client.call("show", disk="1:xvda")["state"]["backend"] == "Connected"
    host.attach(1, "mem:1M", vdev="xvdb", wait=False)
    load(host, 1, "--count", 200, devid=51728).finish()
    for guest in guests:
        stop(guest)


def test_a_killed_worker_takes_what_it_had_in_memory_along_and_the_disk_says_so(host):
    host.attach(1, "mem:4M", wait=False)
    victim = load(host, 1, "--seconds", "60s")
    os.kill(host.worker(1), signal.SIGKILL)
    wait(lambda: "died" in host.client.call("show", disk="1:xvda")["note"], "the manager has noticed")
    assert host.client.call("show", disk="1:xvda")["state"]["backend"] == "Connected"
    victim.kill()
    host.client.call("detach", disk="1:xvda", force=True)


@pytest.mark.parametrize("manager_first", [True, False])
def test_when_manager_and_workers_are_killed_the_next_manager_has_all_taken_over(host, manager_first):
    guests = attach_two(host)
    workers = [host.worker(1), host.worker(2)]
    if manager_first:
        host.manager.kill()
        host.manager.wait(30)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    host.manager.kill()
    host.manager.wait(30)
    host.start_manager()
    for domid, guest in enumerate(guests, 1):
        assert progresses(host, domid) and host.worker(domid) not in workers
        stop(guest)


def test_a_worker_killed_while_the_store_is_away_is_followed_too(host):
    guest, other = attach_two(host)
    host.store.kill()
    host.store.wait(30)
    wait(lambda: not host.client.call("ping")["store"], "the manager has noticed")
    os.kill(host.worker(1), signal.SIGKILL)
    assert progresses(host, 1)
    host.start_store()
    wait(lambda: host.client.call("ping")["store"], "the manager is back at the store")
    stop(guest)
    stop(other)


# Restarting

def test_workers_are_replaced_one_by_one_and_no_guest_sees_it(host):
    guests = attach_two(host)
    for domid, guest in enumerate(guests, 1):
        before = host.worker(domid)
        answer = host.client.call("restart", disk=f"{domid}:xvda")
        assert answer == {"disk": f"domain{domid}:xvda", "domid": domid, "was": before, "pid": host.worker(domid),
                          "version": __version__, "disks": [f"domain{domid}:xvda"]}
        assert progresses(host, domid)
        stop(guest)


def test_an_image_whose_name_another_has_is_served_on_by_the_next_worker_and_the_next_manager(host):
    """mv b.img a.img, and all is replaced: what was opened is served."""
    image = host.image()
    host.attach(1, image, wait=False)
    guest = load(host, 1, "--seconds", "60s")
    os.replace(host.image("b.img"), image)
    before = host.client.call("ping")
    host.client.call("restart")
    wait(lambda: host.restarted(before), "the next manager answers")
    answer = host.client.call("restart", disk="1:xvda")
    assert answer["disks"] == ["domain1:xvda"] and answer["pid"] != answer["was"]
    assert progresses(host, 1)
    stop(guest)


def test_a_worker_is_not_replaced_whose_image_the_manager_has_no_way_to(host):
    """Its claim was lost with a manager that was killed, and another image has its name since."""
    image = host.image()
    host.attach(1, image, wait=False)
    guest = load(host, 1, "--seconds", "60s")
    host.manager.kill()
    host.manager.wait(30)
    os.replace(host.image("b.img"), image)
    host.start_manager()
    wait(lambda: "image is not claimed" in host.client.call("show", disk="1:xvda")["note"], "it says so")
    with pytest.raises(Error, match="the only way to its image") as refused:
        host.client.call("restart", disk="1:xvda")
    assert exit_code(refused.value) == 7 and progresses(host, 1)
    stop(guest)


def test_a_disk_that_is_connected_while_its_worker_hands_over_gets_the_next(host):
    host.attach(1, host.image(), wait=False)
    guest = load(host, 1, "--seconds", "60s")
    host.attach(1, host.image("b.img"), vdev="xvdb", wait=False)
    os.kill(host.worker(1), signal.SIGSTOP)     # it takes its time
    replacing = threading.Thread(target=lambda: host.client.call("restart", disk="1:xvda"))
    replacing.start()
    load(host, 1, "--count", 200, devid=51728).finish()
    replacing.join()
    stop(guest)


def test_the_manager_starts_again_in_its_place_and_workers_serve_on(host):
    guests = attach_two(host)
    workers = [host.worker(1), host.worker(2)]
    before = host.client.call("restart")
    now = wait(lambda: host.restarted(before), "the manager answers again")
    assert now["pid"] == host.manager.pid
    wait(lambda: len(host.client.call("list")["disks"]) == 2, "the disks are taken over")
    assert [host.worker(1), host.worker(2)] == workers
    for domid, guest in enumerate(guests, 1):
        assert progresses(host, domid)
        host.client.call("restart", disk=f"{domid}:xvda")
        stop(guest)


def test_a_worker_whose_journals_the_next_could_not_read_is_left_alone_and_its_death_says_what_to_do(host):
    host.attach(1, host.image(), wait=False)
    guest = load(host, 1, "--seconds", "60s")
    worker = host.worker(1)
    with open(f"{host.directory}/run/qdisk-1-{DEVID}.q0.journal", "r+b") as journal:
        journal.seek(8)
        journal.write(b"\7")
    with pytest.raises(Error, match="journal is of version 7"):
        host.client.call("restart", disk="1:xvda")
    assert progresses(host, 1) and host.worker(1) == worker
    os.kill(worker, signal.SIGKILL)
    wait(lambda: "go back to xenvbd" in host.client.call("show", disk="1:xvda")["note"], "the refusal")
    guest.kill()
    host.client.call("detach", disk="1:xvda", force=True)


def test_a_worker_with_a_disk_in_its_memory_is_not_replaced(host):
    host.attach(1, "mem:4M", wait=False)
    guest = load(host, 1, "--seconds", "60s")
    worker = host.worker(1)
    with pytest.raises(Error, match="would be lost: detach it first") as caught:
        host.client.call("restart", disk="1:xvda")
    assert exit_code(caught.value) == 7 and host.worker(1) == worker
    stop(guest)


def test_everything_ends_with_the_manager_if_it_was_told_so(host):
    host.manager.kill()
    host.manager.wait(30)
    host.start_manager(STOP_WORKERS="1")
    host.attach(1, "mem:1M", wait=False)
    guest = load(host, 1, "--seconds", "60s", "--hold")
    worker = host.worker(1)
    host.manager.terminate()
    assert host.manager.wait(20) == 0
    wait(lambda: not os.path.exists(f"/proc/{worker}/cwd"), "the worker has ended")
    guest.kill()


def test_a_worker_that_hangs_delays_nobody_else_and_no_list(host):
    victim, other = attach_two(host)
    pid = host.worker(1)
    os.kill(pid, signal.SIGSTOP)
    # Whatever waits for that worker waits until it is let go on, below.
    assert len(host.client.call("list")["disks"]) == 2
    host.attach(2, "mem:1M", vdev="xvdb", wait=False)
    load(host, 2, "--count", 100, devid=51728).finish()
    with pytest.raises(Error, match="still with the storage"):
        host.client.call("detach", disk="1:xvda", force=True, timeout=0.2)
    assert progresses(host, 2)
    os.kill(pid, signal.SIGCONT)
    wait(lambda: len(host.client.call("list")["disks"]) == 2, "the disk that was to be detached is gone")
    stop(other)
    victim.kill()


@pytest.mark.parametrize("seed", range(2))
def test_an_area_removed_at_any_moment_of_a_disk_s_life_stays_removed(host, seed):
    """The toolstack makes and removes areas while a guest connects and the manager writes."""
    generator = random.Random(seed)
    back, front = f"/local/domain/0/backend/qdisk/1/{DEVID}", f"/local/domain/1/device/vbd/{DEVID}"
    with Store(f"{host.directory}/store.0") as store:
        for _ in range(40):
            make_areas(store, back, front, "mem:1M")
            guest_writes = [(front, "ring-ref", "8"), (front, "event-channel", "9"), (front, "state", "3")]
            for area, name, value in guest_writes[:generator.randrange(4)]:
                store.write(f"{area}/{name}", value)
            time.sleep(generator.random() * 0.01)
            store.rm(back)
            for _ in range(3):
                time.sleep(generator.random() * 0.005)
                assert not store.exists(back), "a removed area came back"
            store.rm(front)
        wait(lambda: host.client.call("list") == {"disks": []}, "all is forgotten")
        assert not store.exists(back)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_never_harm_the_bystander(host, seed):
    """Domain 2 verifies its data throughout, while manager, store, and domain 1's guest and worker are killed."""
    generator = random.Random(seed)
    host.attach(2, host.image("2.img"), wait=False)
    bystander = load(host, 2, "--seconds", "120s")

    def kill_manager():
        host.manager.kill()
        host.manager.wait(30)
        host.start_manager()
        wait(lambda: any(disk["domid"] == 2 for disk in host.client.call("list")["disks"]), "taken over")

    def kill_guest():
        guest.kill()

    def kill_worker():
        os.kill(host.worker(1), signal.SIGKILL)

    for _ in range(6):
        wait(lambda: host.client.call("ping")["store"], "the store is there")
        host.attach(1, host.image("1.img"), wait=False)
        guest = host.guest(1, DEVID, *LOAD, "--seconds", "120s", "--tolerate")
        time.sleep(generator.random() * 0.5)        # any moment of the handshake, or of the load
        generator.choice([kill_manager, kill_guest, kill_worker, kill_manager])()
        guest.kill()
        host.client.call("detach", disk="1:xvda", force=True)
        assert progresses(host, 2)
    stop(bystander)


# Leaks

def resources(pid):
    """What a process holds: descriptors, threads."""
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task"))}


def command_line(pid):
    with contextlib.suppress(OSError):      # it has ended
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@pytest.mark.slow
def test_a_thousand_attachments_leave_nothing(host):
    """No descriptor, thread, mapping or watch in manager and worker; connections in between among them."""
    host.attach(1, "mem:1M", vdev="xvdz", wait=False)

    def cycle(number):
        host.attach(1, "mem:64K", wait=False)
        if number % 50 == 0:
            load(host, 1, "--count", 10, "--size", 65536, "--iodepth", 1).finish()
        host.client.call("detach", disk="1:xvda", force=True)

    def span():
        for number in range(500):
            cycle(number)

    def mapped():
        return {f"{who}'s mappings": mappings(pid)["mappings"] for who, pid in processes.items()}

    def grown():
        now = {who: resources(pid) for who, pid in processes.items()}
        return [(who, name, before[who][name], now[who][name]) for who in now for name in now[who]
                if now[who][name] > before[who][name]]

    for number in range(100):
        cycle(number)
    # Made a moment after the first worker, and one more descriptor of the manager's from then on.
    wait(lambda: any("spare" in command_line(pid) for pid in host.processes()), "a spare")
    processes = {"manager": host.manager.pid, "worker": host.worker(1)}
    before = {who: resources(pid) for who, pid in processes.items()}
    assert growing(span, mapped) == {}
    wait(lambda: not grown(), lambda: f"no more than before: {grown()}")
    assert host.machine.mappings(1) == []
