"""Images on file systems that are full, truncated, turned read-only or frozen, under a guest that goes on."""
import os
import signal
import subprocess

import pytest

from tests.support.host import wait
from xenvbd.errors import Error

DEVID, SECOND = 51712, 51728
LOAD = ("--bs", 4096, "--iodepth", 16)
WRITES = ("--rw", "randwrite", *LOAD, "--prepare", "--seconds", "2s", "--no-blank")


def note(host, disk="1:xvda"):
    return host.client.call("show", disk=disk)["note"]


def counters(host, operation, disk="1:xvda"):
    return host.client.call("show", disk=disk)["stats"][operation]


def ops(host, disk):
    return sum(counters(host, operation, disk)["ops"] for operation in ("read", "write"))


def progresses(host, disk):
    before = ops(host, disk)
    return wait(lambda: ops(host, disk) > before + 100, f"{disk} goes on")


def image(place, size=4 << 20):
    path = place / "disk.img"
    with path.open("wb") as file:
        file.truncate(size)
    return str(path)


def test_a_full_file_system_stops_the_disk_until_there_is_room(host, mounts):
    place = mounts(host).tmpfs("2M")
    host.attach(1, image(place), wait=False)
    guest = host.guest(1, DEVID, *WRITES)
    wait(lambda: note(host) == "stopped: no space left for the image", "it stops")
    subprocess.run(["mount", "-o", "remount,size=8M", str(place)], check=True)
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0 and note(host) == ""


def test_with_werror_report_a_full_file_system_is_the_guests_error(host, mounts):
    place = mounts(host).tmpfs("2M")
    host.attach(1, image(place), wait=False, werror="report")
    guest = host.guest(1, DEVID, "--rw", "write", *LOAD, "--tolerate", "--count", 1024)
    result = guest.finish()
    assert 0 < result["errors"] < 1024 and note(host) == ""


def test_room_that_another_file_gives_back_on_a_real_file_system_is_found_too(host, mounts):
    place = mounts(host).ext4()
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - (1 << 20))
    host.attach(1, image(place), wait=False)
    guest = host.guest(1, DEVID, *WRITES)
    wait(lambda: note(host) == "stopped: no space left for the image", "it stops")
    ballast.unlink()
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0


def end(guest):
    guest.process.terminate()
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0


def loading(guest):
    """The guest, once it has written all of its disk and goes on with its load."""
    wait(lambda: any(event["phase"] == "load" for event in guest.events("progress")), "the load begins")
    return guest


def test_what_was_cut_off_an_image_is_an_error_and_never_zeros(host):
    path = host.image()
    host.attach(1, path, wait=False)
    guest = loading(host.guest(1, DEVID, "--rw", "randread", *LOAD, "--prepare", "--tolerate", "--seconds", "60s"))
    os.truncate(path, 1 << 20)
    wait(lambda: counters(host, "read")["errors"] > 100, "reads fail")
    guest.process.terminate()
    result = guest.finish()
    assert 100 < result["errors"] < result["ops"] and result["mismatches"] == 0


def test_a_read_beyond_a_cut_is_kept_with_rerror_stop_until_what_was_cut_off_is_back(host):
    path = host.image()
    host.attach(1, path, wait=False, rerror="stop")
    guest = loading(host.guest(1, DEVID, "--rw", "randread", *LOAD, "--prepare", "--seconds", "60s"))
    with open(path, "rb") as file:
        content = file.read()
    os.truncate(path, 1 << 20)
    wait(lambda: note(host).startswith("stopped: an I/O error"), "it stops")
    story = host.client.call("explain", disk="1:xvda")
    assert "xenvbd resume" in " ".join(story["look"])
    with open(path, "r+b") as file:
        file.write(content)
    host.client.call("resume", disk="1:xvda")
    wait(lambda: note(host) == "", "it goes on")
    progresses(host, "1:xvda")
    end(guest)


def test_a_file_system_that_turned_read_only_is_an_error_for_writes_and_reads_go_on(host, mounts):
    place = mounts(host).ext4()
    device = os.path.basename(subprocess.run(["findmnt", "-no", "SOURCE", str(place)], check=True, capture_output=True,
                                             text=True).stdout.strip())
    host.attach(1, image(place), wait=False)
    guest = loading(host.guest(1, DEVID, "--rw", "randrw", *LOAD, "--prepare", "--tolerate", "--seconds", "60s"))
    with open(f"/sys/fs/ext4/{device}/trigger_fs_error", "w") as file:
        file.write("of a test")
    wait(lambda: counters(host, "write")["errors"] > 100, "writes fail")
    before = counters(host, "read")["ops"]
    wait(lambda: counters(host, "read")["ops"] > before + 100, "reads go on")
    assert counters(host, "read")["errors"] == 0
    guest.process.terminate()
    result = guest.finish()
    assert result["errors"] > 100 and result["mismatches"] == 0


# A storage that hangs

@pytest.fixture
def frozen(host, mounts):
    """(host, thaw): domain 1 has xvda on a frozen file system and xvdb elsewhere, domain 2 xvda; all are under load."""
    made = mounts(host)
    place = made.ext4()
    host.attach(1, image(place), wait=False)
    host.attach(1, host.image("b.img"), vdev="xvdb", wait=False)
    host.attach(2, host.image("c.img"), wait=False)
    load = ("--rw", "randrw", *LOAD, "--seconds", "60s", "--io-timeout", "60s")
    guests = [host.guest(*where, *load).connected() for where in ((1, DEVID), (1, SECOND), (2, DEVID))]
    progresses(host, "1:xvda")
    made.freeze(place)
    wait(lambda: note(host).startswith("hangs: no answer for "), "the alarm")
    yield host, guests, lambda: made.thaw(place)


def test_a_disk_that_hangs_is_told_of_and_goes_on_when_its_storage_does(frozen):
    host, guests, thaw = frozen
    story = host.client.call("explain", disk="1:xvda")
    assert (story["verdict"], story["exit-status"]) == ("waiting", 4) and "hangs: no answer" in story["why"]
    assert "its storage hangs: no answer for " in host.text()
    shown = host.client.call("show", disk="1:xvda")
    assert shown["stalled"] > 0 and shown["state"] == {"backend": "Connected", "frontend": "Connected"}
    thaw()
    wait(lambda: note(host) == "", "it goes on")
    assert "all is answered again" in host.text()
    for guest in guests:
        end(guest)


def test_a_disk_that_hangs_delays_no_other_and_no_attach(frozen):
    host, guests, thaw = frozen
    assert progresses(host, "1:xvdb") and progresses(host, "2:xvda")
    assert note(host, "1:xvdb") == note(host, "2:xvda") == ""
    host.attach(1, host.image("d.img"), vdev="xvdc", wait=False)
    host.guest(1, 51744, "--rw", "randrw", *LOAD, "--count", 500).finish()
    host.client.call("detach", disk="1:xvdc")
    assert note(host).startswith("hangs: ")
    thaw()
    for guest in guests:
        end(guest)


def test_a_worker_that_could_not_end_is_not_replaced(frozen):
    host, guests, thaw = frozen
    with pytest.raises(Error, match="before its storage has answered"):
        host.client.call("restart", disk="1:xvdb")
    assert progresses(host, "1:xvdb")
    thaw()
    wait(lambda: note(host) == "", "it goes on")
    host.client.call("restart", disk="1:xvdb")
    for guest in guests:
        end(guest)


def test_when_a_worker_is_killed_that_cannot_end_its_other_disks_say_so_and_new_ones_are_served(frozen):
    """Its threads share their descriptors, so it keeps all images' locks until the last of them has come back."""
    host, guests, thaw = frozen
    killed = host.worker(1)
    os.kill(killed, signal.SIGKILL)
    for disk in "1:xvda", "1:xvdb":
        wait(lambda disk=disk: "the next waits for its image" in note(host, disk), f"{disk} says what it waits for")
    assert os.path.exists(f"/proc/{killed}") and progresses(host, "2:xvda")
    host.attach(1, host.image("d.img"), vdev="xvdc", wait=False)
    host.guest(1, 51744, "--rw", "randrw", *LOAD, "--count", 500).finish()
    host.client.call("detach", disk="1:xvdc")
    thaw()
    for disk in "1:xvda", "1:xvdb":
        assert progresses(host, disk)
    wait(lambda: not os.path.exists(f"/proc/{killed}"), "it has ended, and is nobody's to wait for")
    for guest in guests:
        end(guest)


def test_a_disk_that_hangs_can_be_taken_from_its_guest_and_its_image_stays_locked(frozen):
    host, guests, thaw = frozen
    with pytest.raises(Error, match="still with the storage"):
        host.client.call("detach", disk="1:xvda", force=True, timeout=0.5)
    with pytest.raises(Error, match=r"it is the image of .*:xvda"):
        host.attach(2, host.client.call("show", disk="1:xvda")["target"], vdev="xvdb", wait=False)
    assert progresses(host, "1:xvdb")
    thaw()
    wait(lambda: len(host.client.call("list")["disks"]) == 2, "it is gone")
    guests[0].kill()
    for guest in guests[1:]:
        end(guest)
