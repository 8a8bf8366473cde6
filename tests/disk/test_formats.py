"""What an image looks like is said by QEMU's names, and never anything else than said."""
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xenvbd.disk import open_image
from xenvbd.disk.formats import looks_like

SIZE = 1 << 20


@pytest.fixture
def seen(tmp_path: Path) -> Callable[..., str]:
    """seen(name=bytes at offset, ...): what an image with these bytes looks like, by direct and by buffered I/O."""
    def look(pieces: dict[int, bytes], size: int = SIZE) -> str:
        path = tmp_path / "image"
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, data in pieces.items():
                file.seek(offset)
                file.write(data)
        return seen_in(path)
    return look


def seen_in(path: Path) -> str:
    found = set()
    for direct in (None, False):
        image = open_image(str(path), read_only=True, direct=direct)
        found.add(looks_like(image.fd, image.size))
        image.close()
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(("pieces", "name"), [
    ({}, ""), ({0: b"QFI\xfb\0\0\0\1"}, "qcow"), ({0: b"QFI\xfb\0\0\0\3"}, "qcow2"), ({0: b"QFI\xfb\0\0\0\x09"}, ""),
    ({0: b"QED\0"}, "qed"), ({0: b"KDMV"}, "vmdk"), ({0: b"COWD"}, "vmdk"), ({0: b"# Disk DescriptorFile\n"}, "vmdk"),
    ({0: b"vhdxfile"}, "vhdx"), ({0: b"conectix"}, "vpc"), ({SIZE - 512: b"conectix"}, "vpc"),
    ({SIZE - 1024: b"conectix"}, ""), ({64: b"\x7f\x10\xda\xbe"}, "vdi"), ({0: b"WithoutFreeSpace"}, "parallels"),
    ({0: b"LUKS\xba\xbe", 510: b"\x55\xaa"}, ""),
])
def test_a_format_is_known_by_its_bytes(pieces: dict[int, bytes], name: str, seen: Callable[..., str]) -> None:
    assert seen(pieces) == name


@pytest.mark.parametrize("size", [1, 7, 100, 511, 512, 513, 1 << 12, (1 << 20) + 512])
def test_an_image_of_any_size_can_be_looked_at(size: int, seen: Callable[..., str]) -> None:
    assert seen({}, size) == ""
    assert seen({size - 512: b"conectix"}, size) == "vpc" if size >= 520 else True


def test_what_cannot_be_read_looks_like_nothing(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert looks_like(fd, SIZE) == ""
    finally:
        os.close(fd)
