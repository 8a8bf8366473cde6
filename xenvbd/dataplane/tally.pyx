"""Where a queue's counters live: a shared file, or private memory for a data plane without a manager."""
import os

from libc.errno cimport errno

from xenvbd.ring cimport XENVBD_SECTOR_SIZE

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)


cdef void tally_end(tallies *t) noexcept nogil:
    cdef uint64_t ns = t.now - t.since
    cdef uint32_t bucket = xenvbd_histogram_bucket(ns)
    cdef int kind
    cdef xenvbd_op_stats *op
    for kind in range(XENVBD_STAT_OPS):
        if t.ops[kind]:
            op = &t.stats.op[kind]
            op.ops += t.ops[kind]
            op.bytes += t.sectors[kind] * XENVBD_SECTOR_SIZE
            op.errors += t.errors[kind]
            op.nanoseconds += ns * t.ops[kind]
            op.histogram[bucket] += t.ops[kind]
            t.ops[kind] = t.sectors[kind] = t.errors[kind] = 0


cdef class Tally:

    def __cinit__(self, fd):
        """fd: a file, sized here if need be, whose counters go on counting; None: private memory.  Raises OSError."""
        cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS if fd is None else MAP_SHARED
        cdef int file = -1 if fd is None else fd
        if fd is not None:
            os.posix_fallocate(fd, 0, sizeof(xenvbd_stats))
        cdef void *memory = mmap(NULL, sizeof(xenvbd_stats), PROT_READ | PROT_WRITE, flags, file, 0)
        if memory == MAP_FAILED:
            raise OSError(errno, f"cannot map the counters: {os.strerror(errno)}")
        self.stats = <xenvbd_stats *>memory
        self.stats.magic = XENVBD_STATS_MAGIC
        # These say how things stand now, and nothing has happened yet.
        self.stats.inflight = self.stats.grants_kept = self.stats.quarantined = self.stats.stopped = 0

    def __dealloc__(self):
        if self.stats != NULL:
            munmap(self.stats, sizeof(xenvbd_stats))

    def raw(self):
        """The bytes of struct xenvbd_stats as they are now."""
        return (<char *>self.stats)[:sizeof(xenvbd_stats)]
