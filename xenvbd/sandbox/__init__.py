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
from collections.abc import Sequence
from dataclasses import dataclass, field

from xenvbd.errors import Error
from xenvbd.sandbox import calls, confine, seccomp

USER = "xenvbd"
CAP_IPC_LOCK = 1 << 14

Place = tuple[str, str]         # a path and what may be done there; see confine.landlock()


@dataclass
class Confinement:
    """What holds, in words: on, and what could not be had: missing."""

    on: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = ", ".join(self.on)
        return f"{text}; missing: {', '.join(self.missing)}" if self.missing else text


def lock_down(places: Sequence[Place], user: str = USER) -> Confinement:
    """Give up, for good and for the whole process, everything but its open descriptors, memory, threads and places.

    user: who to be, if this is root, there is such a user and it may use the places.  Raises Error if there are other
    threads, which would stay free, and OSError if not even the capabilities can be given up."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise Error(errno.EBUSY, "only a process with one thread can be locked down")
    confinement = Confinement()
    confine.load_unwinder()
    unlimited = _limit()
    confine.no_new_privileges()
    confine.drop_bounding_set()
    _become(user, places, confinement)
    confine.drop_capabilities(0 if unlimited else CAP_IPC_LOCK)
    confine.not_dumpable()
    confinement.on.append("no capabilities" if unlimited else "no capability but CAP_IPC_LOCK, for the limit of locked "
                          "memory cannot be lifted")
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
    """No core.  Whether locked memory, which registered buffers are, is no longer limited: the disks bound those."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        return False
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
