"""From the ring to the disk: take requests, judge them, give them buffers, copy in what they write."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.queue cimport Queue

# Requests may be taken now.
cdef bint may_consume(Queue q) noexcept nogil
# One pass: at most a ring of requests; how many were taken, or found their buffer at last.
cdef uint32_t intake(Queue q) noexcept nogil
