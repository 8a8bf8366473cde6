"""Which advisories' fixes a host has, as far as versions can tell: those that SECURITY.md names for this backend.

A point release of Xen says much; a distribution's package says more, for it fixes without changing that; who else built
a Xen must say so himself.  The tables are those of SECURITY.md, and no newer than it.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

Series = tuple[int, int]

# The first point release of each series with the fixes of RELEASED; those of UNRELEASED are in none yet.
POINT = {(4, 17): 7, (4, 18): 6, (4, 19): 6, (4, 20): 4, (4, 21): 2, (4, 22): 0}
RELEASED = "XSA-484, XSA-486, XSA-500 and XSA-501"
UNRELEASED = "XSA-517 and XSA-523 (November 2026)"
# Debian's first package of each series with all of them.
DEBIAN_XEN = {(4, 17): "4.17.7+13-g2445b30a44-0+deb12u1", (4, 20): "4.20.4+63-g7abfd2bce2-0+deb13u1"}
LINUX, LINUX_FIXED = (6, 1), (6, 6)             # the first that will do; the first that came out with XSA-441 fixed
DEBIAN_LINUX = "6.1.64-1"                       # the same of Debian's 6.1

Newer = Callable[[str, str], bool]


class Verdict(NamedTuple):
    """level: "ok", "note" or "warn"."""

    level: str
    found: str
    fix: str = ""


def xen(series: Series, extra: str, package: str | None, newer: Newer) -> Verdict:
    """Of the running Xen, of which extra is what follows the series in its version; package: the version of Debian's
    hypervisor that is installed, None without one; newer(a, b): whether package version a is b, or later."""
    name, point = f"Xen {series[0]}.{series[1]}{extra}", _point(extra)
    if series not in POINT or point is None:
        return Verdict("note", f"whether {name} has every fix is not known to this xenvbd", "keep it up to date")
    wanted = f"{series[0]}.{series[1]}.{POINT[series]}"
    if package is not None and series in DEBIAN_XEN:
        return _debian(name, series, point, package, newer)
    if point < POINT[series]:
        return Verdict("warn", f"{name} has no fixes of {RELEASED}, unless whoever built it put them in",
                       f"Xen {wanted} or later")
    if point > POINT[series]:
        return Verdict("note", f"{name} is later than the advisories that this xenvbd knows of", "keep it up to date")
    return Verdict("note", f"{name} has the fixes of {RELEASED}; those of {UNRELEASED} are in no release, and its "
                   "version does not tell", "ask whoever built it")


def _debian(name: str, series: Series, point: int, package: str, newer: Newer) -> Verdict:
    if not newer(package, DEBIAN_XEN[series]):
        lacking = UNRELEASED if point >= POINT[series] else f"{RELEASED}, {UNRELEASED}"
        return Verdict("warn", f"Debian's Xen {package} does not have all fixes of {lacking}",
                       f"apt upgrade to {DEBIAN_XEN[series]} or later, and reboot")
    if point < POINT[series]:
        return Verdict("warn", f"Debian's Xen {package} is installed, and {name}, which is older, still runs", "reboot")
    return Verdict("ok", f"Debian's Xen {package} has the fixes of {RELEASED}, {UNRELEASED}; it runs if this host was "
                   "booted after it was installed")


def _point(extra: str) -> int | None:
    """The last point release that is in a version: of .8-pre, 7.  None: it names none."""
    match = re.match(r"\.(\d+)(-pre|-rc)?", extra)
    return int(match[1]) - bool(match[2]) if match else None


def linux(version: str, newer: Newer) -> Verdict | None:
    """Of a Linux that says this in /proc/version; None if that names none."""
    match = re.match(r"Linux version (\d+)\.(\d+)", version)
    if match is None:
        return None
    series = int(match[1]), int(match[2])
    name = f"Linux {series[0]}.{series[1]}"
    debian = re.search(r"\bDebian (\d\S*)", version)
    if series < LINUX:
        return Verdict("warn", f"{name} is older than {LINUX[0]}.{LINUX[1]}: what Xen's advisories changed in it since "
                       "2020 may be missing", "a newer one; see SECURITY.md")
    if series >= LINUX_FIXED or (series == LINUX and debian and newer(debian[1], DEBIAN_LINUX)):
        return Verdict("ok", f"{name} has the fixes of XSA-332, XSA-349, XSA-361 and XSA-441")
    if debian:
        return Verdict("warn", f"Debian's Linux {debian[1]} has no fix of XSA-441 (a deadlock in a driver domain)",
                       f"apt upgrade to {DEBIAN_LINUX} or later, and reboot")
    return Verdict("note", f"whether {name} has the fix of XSA-441 (a deadlock in a driver domain) cannot be told from "
                   "its version", "keep it up to date")
