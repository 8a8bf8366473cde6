"""Rivals are found by what they leave in /proc and /sys, and named."""
from pathlib import Path

import pytest

from xenvbd import rivals


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/self").mkdir()
    return tmp_path


def process(root: Path, pid: int, *words: str) -> None:
    (root / f"proc/{pid}").mkdir()
    (root / f"proc/{pid}/cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))


def test_an_empty_host_has_none(root: Path) -> None:
    process(root, 2)                                # a kernel thread has no command line
    assert [rivals.find(kind, 7, root=str(root)) for kind in ("vbd", "vbd3", "qdisk", "other")] == [None] * 4


def test_the_kernel_has_every_vbd(root: Path) -> None:
    (root / rivals.KERNEL_BACKEND).mkdir(parents=True)
    found = rivals.find("vbd", root=str(root))
    assert found is not None and "xen-blkback" in found.name


@pytest.mark.parametrize("words", [
    ("/usr/lib/xen-4.17/bin/qemu-system-i386", "-xen-domid", "7", "-machine", "xenpv"),
    ("/usr/lib/xen/bin/qemu-dm", "-d", "7", "-vnc", "none")])
def test_a_qemu_has_the_disks_of_its_own_guest(root: Path, words: tuple[str, ...]) -> None:
    process(root, 812, *words)
    found = rivals.find("qdisk", 7, root=str(root))
    assert found is not None and found.name == "QEMU (process 812)"
    assert rivals.find("qdisk", 70, root=str(root)) is None and rivals.find("qdisk", root=str(root)) is None


def test_our_own_device_model_is_no_rival(root: Path) -> None:
    process(root, 812, "/usr/bin/python3", "/usr/lib/xenvbd/xenvbd-dm", "-xen-domid", "7")
    assert rivals.find("qdisk", 7, root=str(root)) is None


@pytest.mark.parametrize("kind, words, name", [
    ("qdisk", ("xl", "devd"), "xl devd (process 5)"), ("vbd3", ("/usr/sbin/tapback",), "tapback (process 5)")])
def test_a_daemon_has_all_of_a_kind(root: Path, kind: str, words: tuple[str, ...], name: str) -> None:
    process(root, 5, *words)
    found = rivals.find(kind, root=str(root))
    assert found is not None and found.name == name


def test_this_host_can_be_looked_at() -> None:
    assert rivals.find("vbd3") is None
