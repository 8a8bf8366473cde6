"""The counters of one queue (include/xenvbd/stats.h): plain stores by the I/O thread, read by anyone."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "xenvbd/stats.h" nogil:
    uint64_t XENVBD_STATS_MAGIC
    enum xenvbd_stop:
        XENVBD_STOP_NONE
        XENVBD_STOP_NOSPC
        XENVBD_STOP_FLUSH
        XENVBD_STOP_IO
    struct xenvbd_op_stats:
        uint64_t ops
        uint64_t bytes
        uint64_t errors
        uint64_t nanoseconds
        uint64_t histogram[128]
    struct xenvbd_stats:
        uint64_t magic
        uint64_t inflight
        uint64_t passes
        uint64_t wakeups
        uint64_t events_in
        uint64_t events_out
        uint64_t pushes
        uint64_t invalid
        uint64_t unsupported
        uint64_t grant_copies
        uint64_t grant_segments
        uint64_t grant_errors
        uint64_t grants_kept
        uint64_t submits
        uint64_t starved
        uint64_t quarantined
        uint64_t stopped
        xenvbd_op_stats op[4]
    unsigned xenvbd_histogram_bucket(uint64_t ns) noexcept

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now) noexcept


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef struct latency:
    # Requests of one pass took equally long, so the bucket need not be found again for each.
    uint64_t now
    uint64_t since
    uint64_t ns
    uint32_t bucket


cdef inline void latency_of(latency *l, uint64_t since) noexcept nogil:
    if l.since != since:
        l.since = since
        l.ns = l.now - since
        l.bucket = xenvbd_histogram_bucket(l.ns)


cdef inline void tally_op(xenvbd_op_stats *stats, uint64_t size, bint failed, const latency *l) noexcept nogil:
    stats.ops += 1
    stats.bytes += size
    stats.errors += failed
    stats.nanoseconds += l.ns
    stats.histogram[l.bucket] += 1


cdef class Tally:
    """The mapping of a queue's counters; see tally.pyx."""
    cdef xenvbd_stats *stats
