"""From the ring to the disk: take requests, judge them, give them buffers, copy in what they write."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.queue cimport Queue

# Requests may be taken now.
cdef bint may_consume(Queue q) noexcept nogil
# The ring is to be closed: take what is posted by now, and nothing that comes later.
cdef void look_once_more(Queue q) noexcept nogil
# Begin what an earlier worker had consumed and not answered: the numbers of its journal slots, oldest first.
cdef void begin_again(Queue q, const uint32_t *slots, uint32_t nr) noexcept nogil
# One pass: at most a ring of requests; how many were taken, or found their buffer at last.
cdef uint32_t intake(Queue q) noexcept nogil
