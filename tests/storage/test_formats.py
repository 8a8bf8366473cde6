"""What QEMU's tools make is known for what it is."""
import subprocess
from pathlib import Path

import pytest

from xenvbd.disk import open_image
from xenvbd.disk.formats import looks_like


def seen_in(path: Path) -> str:
    image = open_image(str(path), read_only=True)
    try:
        return looks_like(image.fd, image.size)
    finally:
        image.close()


@pytest.mark.parametrize(("form", "options", "name"), [
    ("qcow2", [], "qcow2"), ("qed", [], "qed"), ("vmdk", [], "vmdk"), ("vdi", [], "vdi"), ("vhdx", [], "vhdx"),
    ("vpc", ["-o", "subformat=dynamic"], "vpc"), ("vpc", ["-o", "subformat=fixed"], "vpc"),
    ("qcow", [], "qcow"), ("parallels", [], "parallels"), ("raw", [], "")])
def test_what_qemu_img_makes_is_known(form: str, options: list[str], name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, path, "8M"], check=True)
    assert seen_in(path) == name
