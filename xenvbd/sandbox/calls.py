"""The system calls of a locked down worker, and the arguments that some of them may have."""
from __future__ import annotations

from collections.abc import Iterator

from xenvbd.sandbox import seccomp

Rule = tuple[str, tuple[tuple[int, int, int], ...]]

PLAIN = (
    # files: what came as a descriptor, and what Landlock lets it open (on Xen the grant device)
    "openat", "close", "read", "write", "pread64", "pwrite64", "preadv2", "pwritev2", "fdatasync", "fallocate",
    "ftruncate",
    "fstat", "newfstatat",                  # fstat(), until glibc 2.38 and since
    "statx", "fstatfs",
    # memory
    "munmap", "brk",
    # threads
    "futex", "rseq", "exit", "exit_group", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "clock_nanosleep",
    # the clock: the vDSO asks the kernel where the clock source cannot be read from user space, as in a dom0
    "clock_gettime",
    # waiting
    "epoll_ctl", "ppoll", "eventfd2",
    # the manager's connection; what is sent without a descriptor is written
    "accept4", "recvmsg",
    # of the rings that it has already: a new one would be under no restriction
    "io_uring_enter")

# The one of these that there is: aarch64 and newer architectures have the second.
WAITS = ("epoll_wait", "epoll_pwait")

# Those that only a machine of files needs: FIFOs are its event channels.
MAKING = ("mknodat", "unlinkat", "getpid")

# Seen from here the kernel is older: glibc does without, or with something that can be looked into.
ABSENT = ("clone3",)

# What is asked for and not needed fails as all else does: mremap(), where malloc() then copies; sched_getaffinity(),
# for the number of its arenas; set_robust_list(), for mutexes that there are none of; gettid(), for what Python shows
# of a thread; getpid(), tgkill() and rt_sigaction() of abort(), which then ends the process with a fault; getsockname()
# of accept(), which knows.

PROT_EXEC = 4
MAP_PRIVATE, MAP_TYPE, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x02, 0x0F, 0x20, 0x100
# What the buffers and glibc's stacks are: no pages that the kernel merges with others' that are the same.
MADV_DONTNEED, MADV_HUGEPAGE, MADV_DONTDUMP, MADV_GUARD_INSTALL = 4, 14, 16, 102
CLONE_THREAD = 0x10000
CLONE_NAMESPACES = 0x7E020000
# Of fcntl(): no lock is let go, and nobody is sent a signal (F_SETOWN, F_SETSIG, O_ASYNC: the kernel sends it, and asks
# only whether the user is the same, which all workers are).  The locks of open file descriptions: a machine of files'.
F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, O_ASYNC = 3, 4, 1030, 0x2000
F_OFD = (36, 37, 38)
FIONBIO, TCGETS = 0x5421, 0x5401
BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = 0x125E, 0x1268, 0x127B, 0x80081272
# Of io_uring_register(), as xenvbd.disk.restrict has them, and to enable a ring: its own restrictions hold from then
# on.  With memory of the kernel's own (PBUF_RING) one could take all there is.
UNREGISTER_BUFFERS, REGISTER_FILES, UNREGISTER_FILES, REGISTER_FILES_UPDATE, REGISTER_PROBE = 1, 2, 3, 6, 8
REGISTER_ENABLE_RINGS, REGISTER_BUFFERS2, REGISTER_BUFFERS_UPDATE, REGISTER_IOWQ_MAX_WORKERS = 12, 15, 16, 19
REGISTER_RING_FDS, UNREGISTER_RING_FDS = 20, 21
RINGS = (UNREGISTER_BUFFERS, REGISTER_FILES, UNREGISTER_FILES, REGISTER_FILES_UPDATE, REGISTER_PROBE,
         REGISTER_ENABLE_RINGS, REGISTER_BUFFERS2, REGISTER_BUFFERS_UPDATE, REGISTER_IOWQ_MAX_WORKERS,
         REGISTER_RING_FDS, UNREGISTER_RING_FDS)
BY_NUMBER_OF_RING = 1 << 31             # in the same argument: the ring is one of those of REGISTER_RING_FDS
# Of xen/evtchn.h: bind to a guest's port, unbind, notify.  Of xen/gntdev.h: map, unmap, offset of an address,
# limit, notify at the end, copy.  No port of its own and no virtual interrupt, no reset, no dma-buf.
XEN = {ord("E"): (1, 3, 4), ord("G"): (0, 1, 2, 3, 7, 8)}
REQUEST, KIND_AND_NUMBER = 0xFFFFFFFF, 0xFFFF


def rules(making: bool) -> Iterator[Rule]:
    """Everything that is allowed; making: also files in a directory."""
    waits = next(name for name in WAITS if seccomp.number(name) is not None)
    for name in (*PLAIN, waits, *(MAKING if making else ())):
        yield name, ()
    yield "mprotect", ((2, PROT_EXEC, 0),)      # no code is made
    # Of files, and private: RLIMIT_DATA counts neither what is shared and of no file, nor what grows downwards.
    yield "mmap", ((2, PROT_EXEC, 0), (3, MAP_ANONYMOUS, 0))
    yield "mmap", ((2, PROT_EXEC, 0), (3, MAP_TYPE | MAP_GROWSDOWN, MAP_PRIVATE))
    for advice in MADV_DONTNEED, MADV_HUGEPAGE, MADV_DONTDUMP, MADV_GUARD_INSTALL:
        yield "madvise", ((2, REQUEST, advice),)
    yield "clone", ((0, CLONE_THREAD | CLONE_NAMESPACES, CLONE_THREAD),)
    yield "fcntl", ((1, REQUEST, F_SETFL), (2, O_ASYNC, 0))
    for command in (F_GETFL, F_DUPFD_CLOEXEC, *(F_OFD if making else ())):
        yield "fcntl", ((1, REQUEST, command),)
    for request in FIONBIO, TCGETS, BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64:
        yield "ioctl", ((1, REQUEST, request),)
    for request in RINGS:
        yield "io_uring_register", ((1, REQUEST & ~BY_NUMBER_OF_RING, request),)
    for kind, numbers in XEN.items():           # whatever the size of their structure
        for number in numbers:
            yield "ioctl", ((1, KIND_AND_NUMBER, kind << 8 | number),)
