"""The worker's sandbox: what a guest that takes a worker over can do with it is what the worker needs, and no more.

lock_down() is called once, when the process has all it must open or import.  Where the kernel lacks a part the rest is
done all the same, and what is missing is returned for the log.
"""
from __future__ import annotations

import errno
import os
import pwd
import resource
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xenvbd.errors import Error
from xenvbd.sandbox import calls, confine, seccomp

USER = "xenvbd"
# Bytes that all workers of the user together may have pinned: what is pinned and then unmapped is nobody's memory any
# more.
PINNED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4

Place = tuple[str, str]         # a path and what may be done there; see confine.landlock()


@dataclass
class Confinement:
    """What holds, in words: on, and what could not be had: missing."""

    on: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = ", ".join(self.on)
        return f"{text}; missing: {', '.join(self.missing)}" if self.missing else text


def lock_down(places: Sequence[Place], user: str = USER, last: Callable[[], object] = bool) -> Confinement:
    """Give up, for good and for the whole process, everything but its open descriptors, memory, threads and places.

    user: who to be, if this is root, there is such a user and it may use the places.  last: makes what cannot be made
    later, and without root's rights if that can be: io_urings, of which the kernel counts what they pin unless root
    made them.  Raises Error if there are other threads, which would stay free, and OSError if not even the capabilities
    can be given up."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise Error(errno.EBUSY, "only a process with one thread can be locked down")
    confinement = Confinement()
    confine.load_unwinder()
    limited = _limit()
    if not limited:
        last()
        confinement.missing.append(f"a limit of what io_uring pins ({PINNED >> 20} MiB), to which root may not raise "
                                   "RLIMIT_MEMLOCK here")
    confine.no_new_privileges()
    confine.drop_bounding_set()
    _become(user, places, confinement)
    confine.drop_capabilities()
    confine.not_dumpable()
    confinement.on.append("no capabilities")
    if limited:
        last()
    try:
        confinement.on.append(f"Landlock {confine.landlock(places)}")
    except OSError as exc:
        confinement.missing.append(str(exc.strerror))
    try:
        seccomp.load(calls.rules(any("m" in access for _, access in places)), calls.ABSENT)
        confinement.on.append("seccomp")
    except OSError as exc:
        confinement.missing.append(str(exc.strerror))
    return confinement


def _limit() -> bool:
    """No core, and no more pinned.  False: root, who may not raise that limit (some containers); his rings are under
    none, and with what is allowed there only the first workers would have some (since Linux 6.14 rings count too)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (PINNED, PINNED))
    except ValueError:
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return os.geteuid() != 0
    return True


def user_of(places: Sequence[Place], user: str = USER) -> tuple[pwd.struct_passwd | None, str]:
    """Who a worker that root starts becomes, and that in words: nobody else (None) if there is no such user, or the
    places are not open to it."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None, f"user 0 (there is no {user})"
    if closed := [path for path, _ in places if not _may_use(path, entry)]:
        return None, f"user 0 ({user} may not use {' or '.join(closed)})"
    return entry, f"user {user}"


def _become(user: str, places: Sequence[Place], confinement: Confinement) -> None:
    if os.geteuid() != 0:
        confinement.on.append(f"user {os.geteuid()}")
        return
    entry, words = user_of(places, user)
    if entry is not None:
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    confinement.on.append(words)


def _may_use(path: str, entry: pwd.struct_passwd) -> bool:
    """Whether a user may read and write a node, or work in a directory, by its owner, group and mode."""
    status = os.stat(path)
    wanted = 0o7 if stat.S_ISDIR(status.st_mode) else 0o6
    shift = 6 if status.st_uid == entry.pw_uid else 3 if status.st_gid == entry.pw_gid else 0
    return (status.st_mode >> shift) & wanted == wanted
