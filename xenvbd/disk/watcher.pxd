"""Waiting with ppoll(2) for watched descriptors: what the engines without an io_uring sleep on."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t

cdef extern from "poll.h" nogil:
    int POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    struct timespec:
        long tv_sec
        long tv_nsec
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *sigmask)

cdef enum:
    WATCH_TAGS = 32         # bits of sleep()'s ready
    WATCH_OWN = 32          # the slot of the engine's own descriptor
    WATCH_EINVAL = 22
    WATCH_BILLION = 1000000000


cdef struct watcher:
    pollfd fds[33]


cdef inline void watcher_init(watcher *self) noexcept nogil:
    cdef int i
    for i in range(WATCH_TAGS + 1):
        self.fds[i].fd = -1             # ppoll() ignores it
        self.fds[i].events = POLLIN


cdef inline int watcher_add(watcher *self, int fd, uint32_t tag) noexcept nogil:
    if tag >= WATCH_TAGS or fd < 0:
        return -WATCH_EINVAL
    self.fds[tag].fd = fd
    return 0


cdef inline int watcher_wait(watcher *self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
    """Wait for a watched or the own descriptor.  1: the own one is readable, 0: not, or a negative errno."""
    cdef timespec span
    cdef int i, n
    ready[0] = 0
    span.tv_sec = timeout_ns // WATCH_BILLION
    span.tv_nsec = timeout_ns % WATCH_BILLION
    n = ppoll(self.fds, WATCH_TAGS + 1, NULL if timeout_ns < 0 else &span, NULL)
    if n < 0:
        return 0 if errno == EINTR else -errno
    if n == 0:
        return 0
    for i in range(WATCH_TAGS):
        if self.fds[i].fd >= 0 and self.fds[i].revents != 0:
            ready[0] |= <uint32_t>1 << i
    return self.fds[WATCH_OWN].fd >= 0 and self.fds[WATCH_OWN].revents != 0
