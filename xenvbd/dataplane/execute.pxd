"""From a request that has all it needs to one that is finished: what the disk is asked for, and in which order."""
from libc.stdint cimport int16_t

from xenvbd.dataplane.queue cimport Queue
from xenvbd.dataplane.work cimport work
from xenvbd.disk.disk cimport disk_op

# It is done with, and will be answered with this status.
cdef void finish(Queue q, work *w, int16_t status) noexcept nogil
# Begin: its buffer is filled, if it writes.
cdef void execute(Queue q, work *w) noexcept nogil
# Begin what waited for others: barriers, flushes, discards.
cdef void proceed(Queue q) noexcept nogil
# The disk has done an operation.
cdef void settle(Queue q, disk_op *op) noexcept nogil
# Try again the writes that there was no room for.
cdef void retry_held(Queue q) noexcept nogil
# Another queue's flush failed: be silent too.
cdef void follow_failure(Queue q) noexcept nogil
