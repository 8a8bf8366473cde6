"""How much memory of its own a worker may have: what the disks that it was given can need, whatever was negotiated.

The kernel counts it (RLIMIT_DATA: private memory that can be written to), and the worker's seccomp filter leaves it no
other and no way to raise the limit, so one that a guest has taken over cannot take the host's.  What is mapped of a
guest, of io_uring or of a file is not counted; what io_uring pins has a limit of its own (sandbox.PINNED).

A manager that may not raise the limit of another user's process sets one for all disks at once, while it still can:
half of the host's memory.
"""
from __future__ import annotations

import contextlib
import logging
import os
import pwd
import resource
from pathlib import Path

from xenvbd.record import Record
from xenvbd.sandbox import USER
from xenvbd.trace import Limiter

MIB = 1 << 20
BASE = 96 * MIB                 # without a disk: 11 MiB, the stacks that glibc keeps for later (40 MiB), as much again
ENTRIES = 32                    # of a ring of one page
ENTRY, SEGMENT, GRANT = 1024, 32, 128          # bytes for one of a ring, of its requests, of its pages that stay mapped
GRANTS = 1056                   # dataplane.Settings has it
QUEUE = 6 * MIB                 # a queue's heap, and what its buffers take to lie on a boundary
POOL = 6                        # threads of the threads engine, which others get too when their worker has no ring left
CAP_SYS_RESOURCE = 1 << 24
UNRAISED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

log = logging.getLogger("xenvbd.workers")


def of_disk(record: Record) -> int:
    """Bytes that a disk's data plane can need in its worker, with the rings that were agreed on."""
    agreement, properties = record.agreement, record.properties
    if agreement is None:
        return 0
    entries = ENTRIES << agreement.ring_page_order
    queue = (QUEUE + record.buffer_bytes + (1 + POOL) * _stack() + GRANTS * GRANT
             + entries * (ENTRY + SEGMENT * max(11, properties.max_indirect)))
    in_memory = properties.target is not None and properties.target.scheme == "mem"
    # One more stack: of the thread that closes it.
    return len(agreement.queues) * queue + _stack() + (record.facts.size if in_memory else 0)


def _stack() -> int:
    """Bytes of a new thread's, as glibc chooses them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return 8 * MIB if soft == resource.RLIM_INFINITY else soft


class Allowance:
    """A worker's limit.  It is raised when a disk comes and never lowered: the worker ends with its last disk."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._disks: dict[str, int] = {}
        self._limiter = Limiter()

    def begin(self) -> None:
        """Of a worker that was just started, and has no disk."""
        if limited():
            self._set(BASE if can_raise() else UNRAISED)

    def allow(self, disk: str, size: int) -> None:
        """So much for that disk; 0: it has gone."""
        self._disks[disk] = size
        wanted = BASE + sum(self._disks.values())
        with contextlib.suppress(ProcessLookupError):
            soft, _ = resource.prlimit(self._pid, resource.RLIMIT_DATA)
            if soft != resource.RLIM_INFINITY and soft < wanted:
                self._set(wanted)

    def _set(self, size: int) -> None:
        try:
            _, hard = resource.prlimit(self._pid, resource.RLIMIT_DATA)
            resource.prlimit(self._pid, resource.RLIMIT_DATA, (size, hard))
        except ProcessLookupError:
            pass                                # its end is told elsewhere
        except (OSError, ValueError) as exc:    # ValueError: the hard limit is lower, and holds
            self._limiter.log(log, logging.WARNING, "the memory of process %d cannot be limited to %d MiB: %s",
                              self._pid, size // MIB, exc)


def limited() -> bool:
    """Whether workers are: not those that are left free."""
    return os.environ.get("XENVBD_SANDBOX") != "off"


def can_raise() -> bool:
    """Whether what is limited now can be raised later.  Root without CAP_SYS_RESOURCE (some containers) cannot, of a
    process that has become another user."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if os.geteuid() != 0 or int(fields["CapEff"], 16) & CAP_SYS_RESOURCE:
        return True
    with contextlib.suppress(KeyError):
        pwd.getpwnam(USER)
        return False
    return True
