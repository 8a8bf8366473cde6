"""Links below a directory of devices are followed, relative and absolute ones, and never out of it."""
import errno
import os
from pathlib import Path

import pytest

from xenvbd.disk import open_image
from xenvbd.disk.links import MAX_LINKS, normal, open_beneath
from xenvbd.errors import PolicyError, TargetError


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A /dev with a device dm-3, and beside it a file that no path may lead to."""
    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "dev"
    (place / "vg").mkdir(parents=True)
    (place / "dm-3").write_text("dm-3")
    return place


def found(dev: Path, name: str) -> str:
    """What the path leads to; no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    try:
        fd = open_beneath(f"{dev}/{name}", str(dev))
        try:
            return Path(f"/proc/self/fd/{fd}").read_text()
        finally:
            os.close(fd)
    finally:
        assert len(os.listdir("/proc/self/fd")) == before


def link(dev: Path, name: str, target: str) -> str:
    """A new link in the directory; its name."""
    (dev / name).symlink_to(target.format(dev=dev))
    return name


@pytest.mark.parametrize("target", ["../dm-3", "{dev}/dm-3", "/{dev}/dm-3", "{dev}/./vg/../dm-3", "{dev}/vg/other"])
def test_a_link_is_followed_however_it_is_written(dev: Path, target: str) -> None:
    link(dev, "vg/other", "../dm-3")
    assert found(dev, link(dev, "vg/lv", target)) == "dm-3"


def test_a_link_to_a_directory_on_the_way_is_followed(dev: Path) -> None:
    link(dev, "group", "{dev}/vg")
    link(dev, "vg/lv", "{dev}/dm-3")
    assert found(dev, "group/lv") == "dm-3"


@pytest.mark.parametrize("target", ["../secret", "{dev}/../secret", "{dev}/vg/../../secret", "{dev}x/secret",
                                    "/proc/self/fd"])
def test_a_link_that_leads_out_is_refused(dev: Path, target: str) -> None:
    with pytest.raises(PolicyError, match=f"leads out of {dev}") as caught:
        found(dev, link(dev, "lv", target))
    assert caught.value.errno == errno.EXDEV


def test_links_in_a_circle_end(dev: Path) -> None:
    link(dev, "a", "b")
    link(dev, "b", "{dev}/a")
    with pytest.raises(TargetError, match=f"more than {MAX_LINKS} symbolic links"):
        found(dev, "a")


@pytest.mark.parametrize(("name", "number"), [("none", errno.ENOENT), ("dm-3/x", errno.ENOTDIR)])
def test_what_is_missing_is_said_as_open_does(dev: Path, name: str, number: int) -> None:
    with pytest.raises(OSError) as caught:
        found(dev, name)
    assert caught.value.errno == number


@pytest.mark.parametrize(("path", "same"), [("//dev/x", "/dev/x"), ("///a", "/a"), ("/a//b", "/a//b"), ("a", "a")])
def test_more_slashes_at_the_beginning_mean_one(path: str, same: str) -> None:
    assert normal(path) == same


def test_a_volume_is_opened_by_its_absolute_link_in_dev(make_image, tmp_path: Path, run) -> None:
    device = run("losetup", "--find", "--show", make_image(tmp_path / "image"))
    volume = Path(f"/dev/xenvbd-test-{os.getpid()}")
    volume.symlink_to(device)
    try:
        for path in (str(volume), f"/{volume}", f"/{device}"):
            image = open_image(path, read_only=True, allow=["/dev"])
            assert image.is_block and image.dev == os.stat(device).st_rdev
            image.close()
    finally:
        volume.unlink()
        run("losetup", "--detach", device)
