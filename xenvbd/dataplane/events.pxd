"""What an I/O thread tells Python: a bounded list with one writer and one reader, and an eventfd; full, it drops."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum event_kind:
    EVENT_QUARANTINED = 0   # the order of events.KINDS
    EVENT_FLUSH_FAILED = 1
    EVENT_NO_SPACE = 2
    EVENT_RESUMED = 3
    EVENT_IO_ERROR = 4
    EVENT_IO_STOP = 5
    EVENT_STOPPED = 6

cdef enum:
    EVENTS = 64

cdef struct event:
    uint32_t kind
    int32_t error           # a positive errno, or 0
    uint64_t detail

cdef struct event_list:
    event entries[64]
    uint32_t written        # by the I/O thread
    uint32_t taken          # by Python
    uint64_t dropped
    int fd                  # eventfd of the plane


cdef void event_post(event_list *events, uint32_t kind, int error, uint64_t detail) noexcept nogil
# 1 and the oldest in *out, or 0.
cdef bint event_take(event_list *events, event *out) noexcept nogil
# Wake whoever waits for an eventfd.
cdef void kick(int fd) noexcept nogil
