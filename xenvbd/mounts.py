"""Which storage a path lies on, found without asking that storage anything: it may be dead, and who asks it hangs.

The kernel's list of mounts is compared with the path.  Of the path's own links only those on the root file system are
followed, where this program lies too.
"""
from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

MOUNTINFO = "/proc/self/mountinfo"
DEVICES = "/dev"
MOST_LINKS = 40                 # as the kernel


def place_of(path: str, mountinfo: str = MOUNTINFO) -> str:
    """The mount point that an absolute path lies beneath; of what is in /dev, the path itself: each device is alone."""
    mounts = _mount_points(mountinfo)
    real = _resolved("/" + os.path.normpath(path).lstrip("/"), mounts)
    if Path(real).is_relative_to(DEVICES) and not Path(real).is_relative_to("/dev/shm"):
        return real
    return _deepest(real, mounts)


def _mount_points(mountinfo: str) -> set[str]:
    """proc(5): the fifth field, with blanks and the like as octal numbers."""
    lines = Path(mountinfo).read_text(errors="surrogateescape").splitlines()
    return {re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines}


def _deepest(path: str, mounts: set[str]) -> str:
    while path not in mounts and (above := os.path.dirname(path)) != path:
        path = above
    return path


def _resolved(path: str, mounts: set[str]) -> str:
    """The path behind its links, as far as they lie on the root file system."""
    for _ in range(MOST_LINKS):
        link = _first_link(path, mounts)
        if link is None:
            break
        target = os.path.join(os.path.dirname(link), os.readlink(link))
        path = os.path.normpath(os.path.join(target, os.path.relpath(path, link)))
    return path


def _first_link(path: str, mounts: set[str]) -> str | None:
    for step in [*reversed(Path(path).parents), Path(path)]:
        if _deepest(str(step), mounts) != "/":
            return None                 # another file system begins here
        with contextlib.suppress(OSError):
            os.readlink(step)
            return str(step)
    return None
