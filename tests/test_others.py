"""Disks of other Xen backends on the same image: found by what their areas mean, and refused by name."""
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenvbd import others
from xenvbd.errors import ClaimError
from xenvbd.store import Store
from xenvbd.store_sim import SimStore

MIB = 1 << 20


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, SimStore(directory, (0, 3, 7)) as sim, \
            Store(sim.path(0)) as made:
        made.write("/local/domain/7/name", "web1")
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(MIB))
    return path


@pytest.fixture
def loop(image: Path) -> Iterator[Path]:
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def area(store: Store, kind: str = "vbd", backend: int = 0, devid: int = 51712, **nodes: object) -> None:
    """A disk of guest 7."""
    for name, value in nodes.items():
        store.write(f"/local/domain/{backend}/backend/{kind}/7/{devid}/{name.replace('_', '-')}", str(value))


def checked(store: Store, image: Path, read_only: bool = False, root: str = "/", **options: object) -> None:
    found = others.areas(store, 0, options.pop("skip", lambda key: False), root=root)
    with open(image, "rb") as file:
        others.check(found, file.fileno(), str(image), read_only=read_only, root=root, **options)


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(ClaimError) as caught:
        checked(*arguments, **options)
    assert caught.value.errno == errno.EBUSY
    return str(caught.value)


def hexadecimal(device: Path) -> str:
    number = device.stat().st_rdev
    return f"{os.major(number):x}:{os.minor(number):x}"


@pytest.mark.parametrize(("kind", "prefix", "who"), [
    ("qdisk", "aio:", "QEMU"), ("qdisk", "qcow2:", "QEMU"), ("vbd3", "aio:", "tapdisk"),
    ("vbd", "", "the kernel's xen-blkback"), ("tap2", "vhd:", "the backend of tap2")])
def test_a_disk_of_any_kind_is_found_by_its_path(store: Store, image: Path, kind: str, prefix: str, who: str) -> None:
    area(store, kind, params=f"{prefix}{image}", mode="w")
    assert refused(store, image).endswith(
        f"in use: web1:xvda, served by {who} (backend/{kind}/7/51712); detach it there first "
        "(xl block-detach 7 51712), or let both share it (access=w!)")


def test_an_image_by_another_name_is_the_same(store: Store, image: Path, tmp_path: Path) -> None:
    os.link(image, tmp_path / "b.img")
    (tmp_path / "link").symlink_to("b.img")
    area(store, params=tmp_path / "link", mode="w")
    assert "web1:xvda" in refused(store, image)


def test_another_image_is_none_of_ours(store: Store, image: Path, tmp_path: Path) -> None:
    (tmp_path / "b.img").write_bytes(bytes(MIB))
    for number, params in enumerate([tmp_path / "b.img", tmp_path / "gone.img", "nbd:host:10809", "", "nul\0"]):
        area(store, devid=51712 + 16 * number, params=params, mode="w")
    checked(store, image)


def test_a_domain_that_is_gone_has_nothing(store: Store, image: Path) -> None:
    area(store, params=image, mode="w")
    store.rm("/local/domain/7")
    checked(store, image)


def test_areas_of_our_own_are_passed_over(store: Store, image: Path) -> None:
    area(store, "qdisk", params=image, mode="w")
    checked(store, image, skip=lambda key: key == ("qdisk", 7, 51712))


def test_a_device_is_found_by_its_number(store: Store, loop: Path) -> None:
    area(store, params="/dev/none", physical_device=hexadecimal(loop), mode="w")
    assert "web1:xvda" in refused(store, loop)


def test_a_file_is_found_through_the_loop_device_that_a_script_made(store: Store, image: Path, loop: Path) -> None:
    area(store, params="/dev/none", physical_device=hexadecimal(loop), mode="w")
    assert "web1:xvda" in refused(store, image)


def test_a_loop_device_is_found_by_the_file_that_another_has(store: Store, image: Path, loop: Path) -> None:
    area(store, "qdisk", params=f"aio:{image}", mode="w")
    assert "web1:xvda" in refused(store, loop)


def test_what_the_kernel_has_is_asked_of_the_kernel(store: Store, loop: Path, tmp_path: Path) -> None:
    area(store, params="/dev/none", mode="w")
    device = tmp_path / "root/sys/bus/xen-backend/devices/vbd-7-51712"
    device.mkdir(parents=True)
    (tmp_path / "root/dev").symlink_to("/dev")
    (device / "physical_device").write_text(f"{hexadecimal(loop)}\n")
    assert "web1:xvda" in refused(store, loop, root=str(tmp_path / "root"))


def test_readers_keep_readers_out_as_little_as_xen_s_script_does(store: Store, image: Path) -> None:
    area(store, params=image, mode="r")
    checked(store, image, read_only=True)
    refused(store, image)


@pytest.mark.parametrize("mode", ["w", "w!", ""])
def test_a_writer_keeps_readers_out(store: Store, image: Path, mode: str) -> None:
    area(store, params=image, mode=mode)
    refused(store, image, read_only=True)


def test_a_domain_of_the_same_guest_may_share(store: Store, image: Path) -> None:
    area(store, params=image, mode="w")
    checked(store, image, allowed=lambda domid: domid == 7)


def test_a_driver_domain_looks_at_its_own_areas_only(store: Store, image: Path) -> None:
    area(store, "qdisk", backend=3, params=image, mode="w")
    checked(store, image)


def test_what_may_not_be_read_is_left_out(image: Path) -> None:
    class Forbidden:
        def ls(self, path: str) -> list[str]:
            raise others.StoreError(errno.EACCES, "Permission denied", path=path)

    assert others.areas(Forbidden(), 3, lambda key: False) == []


def test_so_many_areas_are_looked_at_and_no_more(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(others, "MAX_AREAS", 3)
    for number in range(5):
        area(store, devid=number, params="/dev/none")
    assert len(others.areas(store, 0, lambda key: False)) == 3


def test_a_server_that_is_not_the_image_s_is_not_asked(store: Store, image: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "root/proc/self").mkdir(parents=True)
    (tmp_path / "root/proc/self/mountinfo").write_text("30 1 0:99 / /net rw - nfs4 server:/x rw\n")
    area(store, params="/net/b.img", mode="w")
    monkeypatch.setattr("xenvbd.others.text.encode", lambda path: pytest.fail(f"{path} was looked at"))
    checked(store, image, root=str(tmp_path / "root"))
