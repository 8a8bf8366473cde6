"""The system calls of a locked down worker, and the arguments that some of them may have."""
from __future__ import annotations

import os
from collections.abc import Iterator

Rule = tuple[str, tuple[tuple[int, int, int], ...]]

PLAIN = (
    # files: what came as a descriptor, and what Landlock lets it open (on Xen the grant device)
    "openat", "close", "read", "write", "pread64", "preadv", "preadv2", "pwritev2", "fcntl",
    "newfstatat", "fstat", "statx", "fstatfs", "ftruncate", "fallocate", "fdatasync",
    # memory
    "munmap", "mremap", "madvise", "brk",
    # threads
    "futex", "set_robust_list", "rseq", "sched_getaffinity", "gettid", "getpid", "exit", "exit_group",
    "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "restart_syscall", "clock_nanosleep",
    # the clock: the vDSO asks the kernel where the clock source cannot be read from user space, as in a dom0
    "clock_gettime",
    # waiting
    "epoll_wait", "epoll_pwait", "epoll_ctl", "ppoll", "eventfd2",
    # the manager's connection
    "accept4", "recvmsg", "sendmsg", "getsockname",
    "io_uring_setup", "io_uring_enter", "io_uring_register")

# Those that only a machine of files needs: FIFOs are its event channels.
MAKING = ("mknodat", "unlinkat")

# Seen from here the kernel is older: glibc does without, or with something that can be looked into.
ABSENT = ("clone3",)

PROT_EXEC = 4
MAP_PRIVATE, MAP_TYPE, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x02, 0x0F, 0x20, 0x100
CLONE_THREAD = 0x10000
CLONE_NAMESPACES = 0x7E020000
FIONBIO, TCGETS = 0x5421, 0x5401
BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = 0x125E, 0x1268, 0x127B, 0x80081272
# Of xen/evtchn.h: bind to a guest's port, unbind, notify.  Of xen/gntdev.h: map, unmap, offset of an address,
# limit, notify at the end, copy.  No port of its own and no virtual interrupt, no reset, no dma-buf.
XEN = {ord("E"): (1, 3, 4), ord("G"): (0, 1, 2, 3, 7, 8)}
REQUEST, KIND_AND_NUMBER = 0xFFFFFFFF, 0xFFFF


def rules(making: bool) -> Iterator[Rule]:
    """Everything that is allowed; making: also files in a directory."""
    for name in PLAIN + (MAKING if making else ()):
        yield name, ()
    yield "mprotect", ((2, PROT_EXEC, 0),)      # no code is made
    # Of files, and private: RLIMIT_DATA counts neither what is shared and of no file, nor what grows downwards.
    yield "mmap", ((2, PROT_EXEC, 0), (3, MAP_ANONYMOUS, 0))
    yield "mmap", ((2, PROT_EXEC, 0), (3, MAP_TYPE | MAP_GROWSDOWN, MAP_PRIVATE))
    yield "clone", ((0, CLONE_THREAD | CLONE_NAMESPACES, CLONE_THREAD),)
    yield "tgkill", ((0, REQUEST, os.getpid()),)        # abort()
    for request in FIONBIO, TCGETS, BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64:
        yield "ioctl", ((1, REQUEST, request),)
    for kind, numbers in XEN.items():           # whatever the size of their structure
        for number in numbers:
            yield "ioctl", ((1, KIND_AND_NUMBER, kind << 8 | number),)
