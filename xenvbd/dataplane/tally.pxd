"""The counters of one queue (include/xenvbd/stats.h): plain stores by the I/O thread, read by anyone."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "xenvbd/stats.h" nogil:
    uint64_t XENVBD_STATS_MAGIC
    enum:
        XENVBD_STAT_OPS
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


cdef struct tallies:
    # The operations of a pass that are answered together.  Those that were consumed together took equally long.
    xenvbd_stats *stats
    uint64_t now
    uint64_t since
    uint64_t ops[4]         # by enum xenvbd_stat_op; those that took from since to now
    uint64_t sectors[4]
    uint64_t errors[4]


# Into the counters.
cdef void tally_end(tallies *t) noexcept nogil


cdef inline void tally_begin(tallies *t, xenvbd_stats *stats, uint64_t now) noexcept nogil:
    memset(t, 0, sizeof(t[0]))
    t.stats, t.now = stats, now


cdef inline void tally_pass(tallies *t, uint64_t since) noexcept nogil:
    """The next one was consumed at that time."""
    if t.since != since:
        tally_end(t)
        t.since = since


cdef inline void tally(tallies *t, uint32_t kind, uint64_t sectors) noexcept nogil:
    t.ops[kind] += 1
    t.sectors[kind] += sectors


cdef class Tally:
    """The mapping of a queue's counters; see tally.pyx."""
    cdef xenvbd_stats *stats
