"""What versions of Xen and Linux tell of fixes, and that the tables are those of SECURITY.md."""
import re
import subprocess
from pathlib import Path

import pytest

from xenvbd import advisories

SECURITY = (Path(__file__).parent.parent / "SECURITY.md").read_text()
DEBIAN, TRIXIE = (advisories.DEBIAN_XEN[series] for series in ((4, 17), (4, 20)))


def newer(version: str, than: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", version, "ge", than], check=False).returncode == 0


@pytest.mark.parametrize("series, extra, package, level, words", [
    ((4, 17), ".5", None, "warn", "Xen 4.17.5 has no fixes of XSA-484"),
    ((4, 17), ".7-pre", None, "warn", "has no fixes of XSA-484"),
    ((4, 17), ".7", None, "note", "those of XSA-517 and XSA-523"),
    ((4, 17), ".8-pre", None, "note", "those of XSA-517 and XSA-523"),
    ((4, 17), ".8", None, "note", "later than the advisories"),
    ((4, 22), ".0", None, "note", "those of XSA-517 and XSA-523"),
    ((4, 22), ".0-rc3", None, "warn", "has no fixes of XSA-484"),
    ((4, 23), ".0", None, "note", "not known to this xenvbd"),
    ((4, 20), "-unstable", None, "note", "not known to this xenvbd"),
    ((4, 21), ".1", "4.21.1-1", "warn", "Xen 4.21.1 has no fixes of XSA-484"),
    ((4, 20), ".5-pre", TRIXIE, "ok", "has the fixes of XSA-484"),
    ((4, 20), ".5-pre", "4.20.4+39-gf1e1321c87-0+deb13u1", "warn", "does not have all fixes of XSA-517"),
    ((4, 20), ".0", "4.20.0+68-g35cb38b222-1", "warn", "does not have all fixes of XSA-484"),
    ((4, 17), ".8-pre", DEBIAN, "ok", "has the fixes of XSA-484"),
    ((4, 17), ".8-pre", "4.17.7+20-gabc-0+deb12u2", "ok", "XSA-523 (November 2026)"),
    ((4, 17), ".5", DEBIAN, "warn", "Xen 4.17.5, which is older, still runs"),
    ((4, 17), ".8-pre", "4.17.7+2-gabc-0+deb12u1", "warn", "does not have all fixes of XSA-517"),
    ((4, 17), ".5", "4.17.5+23-ga4e5191dc0-1", "warn", "does not have all fixes of XSA-484"),
])
def test_xen(series, extra: str, package: str | None, level: str, words: str) -> None:
    verdict = advisories.xen(series, extra, package, newer)
    assert verdict.level == level and words in verdict.found and (verdict.fix or level == "ok")


@pytest.mark.parametrize("version, level, words", [
    ("Linux version 5.10.0-33-amd64 (d) #1 SMP Debian 5.10.226-1 (2024-10-03)", "warn", "older than 6.1"),
    ("Linux version 6.1.0-41-amd64 (d) #1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)", "ok", "XSA-441"),
    ("Linux version 6.1.0-13-amd64 (d) #1 SMP Debian 6.1.55-1 (2023-09-29)", "warn", "6.1.55-1 has no fix"),
    ("Linux version 6.1.99 (root@b) #1 SMP", "note", "cannot be told"),
    ("Linux version 6.12.9 (root@b) #1 SMP", "ok", "XSA-441"),
    ("", None, "")])
def test_linux(version: str, level: str | None, words: str) -> None:
    verdict = advisories.linux(version, newer)
    assert (verdict.level if verdict else None) == level and (verdict is None or words in verdict.found)


def test_the_tables_are_those_of_security_md() -> None:
    points = [f"{major}.{minor}.{point}" for (major, minor), point in advisories.POINT.items()]
    for row in re.findall(r"^\| (XSA-5\d\d.*?) \|.*\| (.*?) \|$", SECURITY, re.M):
        assert "XSA-500" not in row[0] or row[1] == "Xen " + ", ".join(points)
        assert "no release" not in row[1] or row[1].startswith(f"Debian {DEBIAN}, ")
    assert re.search(rf"^\| XSA-523 .* {re.escape(TRIXIE)}; no release", SECURITY, re.M)
    named = set(re.findall(r"XSA-\d+", advisories.RELEASED + advisories.UNRELEASED))
    assert named <= set(re.findall(r"^\| .*?(XSA-\d+)", SECURITY, re.M)) | {"XSA-501"}
    assert f"Debian {advisories.DEBIAN_LINUX}" in re.search(r"XSA-441.*", SECURITY)[0]
    assert "Linux {}.{} or later".format(*advisories.LINUX) in SECURITY.replace("\n", " ")
