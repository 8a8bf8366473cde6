"""What the README says about a Debian dom0, typed in line by line as somebody does who has just found it."""
from __future__ import annotations

import re
from pathlib import Path

from tests.xen.lab import Lab
from tests.xen.xenvbd import Xenvbd

README = Path(__file__).parent.parent.parent / "README.md"
# Elsewhere, as the README says: the package is what the tests were given.
NOT_IN_DOM0 = "make deb"


def commands() -> list[str]:
    """The commands of the section, comments cut off."""
    section = README.read_text().split("\n## In a Debian dom0\n")[1].split("\n## ")[0]
    lines = (re.sub(r"\s{2,}#.*", "", line.strip()) for line in section.splitlines() if line.startswith("    "))
    return [line for line in lines if not line.startswith(NOT_IN_DOM0)]


def test_the_dom0_section_line_by_line(lab: Lab, logs: Path) -> None:
    lab.at("ready", logs)
    guest = lab.machine.guest("web1")
    lab.machine.dom0("mkdir -p /root/dist")
    lab.machine.put(lab.package, f"/root/dist/{lab.package.name}")
    said = {}
    for command in commands():
        said[command] = lab.machine.dom0(f"cd /root; {command}", 400)
        if "attach" in command:
            guest.wait_for("[ -b /dev/xvdb ]")
        elif "detach" in command:
            guest.wait_for("[ ! -b /dev/xvdb ]")
    assert any(command.startswith("apt install ./dist/") for command in said)
    assert "web1:xvdb" in said["xenvbd list"] and "/srv/xen/data.img" in said["xenvbd show web1:xvdb"]
    assert Xenvbd(lab.machine).disks() == []
