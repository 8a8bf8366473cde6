"""On which storage a path lies: by the kernel's list of mounts, and without touching what may hang."""
import os

import pytest

from xenvbd import mounts

MOUNTS = """\
21 1 254:0 / / rw - ext4 /dev/vda rw
22 21 0:5 / /dev rw - devtmpfs udev rw
23 22 0:24 / /dev/shm rw - tmpfs tmpfs rw
40 21 0:50 / /mnt/nfs rw - nfs4 server:/x rw
41 40 0:51 / /mnt/nfs/inner rw - nfs4 server:/y rw
42 21 0:52 / /mnt/with\\040blank rw - nfs4 server:/z rw
"""


@pytest.fixture
def mountinfo(tmp_path):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    return str(tmp_path / "mountinfo")


@pytest.mark.parametrize(("path", "place"), [
    ("/mnt/nfs/a.img", "/mnt/nfs"), ("/mnt/nfs", "/mnt/nfs"), ("/mnt/nfs/inner/b/a.img", "/mnt/nfs/inner"),
    ("/mnt/nfsx/a.img", "/"), ("/srv/a.img", "/"), ("/mnt/with blank/a", "/mnt/with blank"),
    ("/dev/vg/root", "/dev/vg/root"), ("//dev/sda", "/dev/sda"), ("/dev/shm/a.img", "/dev/shm"), ("/", "/")])
def test_a_path_lies_on_the_deepest_mount_above_it_and_each_device_is_a_place(mountinfo, path, place):
    assert mounts.place_of(path, mountinfo) == place


def test_links_on_the_root_file_system_are_followed_and_others_are_not_touched(tmp_path, mountinfo, monkeypatch):
    touched = []

    def readlink(path):
        touched.append(str(path))
        if str(path) == "/srv":
            return "mnt/nfs"
        raise OSError

    monkeypatch.setattr(os, "readlink", readlink)
    assert mounts.place_of("/srv/images/a.img", mountinfo) == "/mnt/nfs"
    assert not [path for path in touched if path.startswith("/mnt/nfs")]


def test_a_loop_of_links_ends(mountinfo, monkeypatch):
    monkeypatch.setattr(os, "readlink", lambda path: {"/a": "/b", "/b": "/a"}.get(str(path)) or _no_link())
    assert mounts.place_of("/a/x", mountinfo) == "/"


def _no_link():
    raise OSError


def test_the_mounts_of_this_host_can_be_read():
    assert mounts.place_of("/proc/self/status") == "/proc"
