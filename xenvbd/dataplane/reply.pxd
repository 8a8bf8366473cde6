"""From the disk to the ring: reap what is done, copy out what was read, answer."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.queue cimport Queue

# Everything that is there, without waiting; how many operations and answers that were.
cdef uint32_t collect(Queue q) noexcept nogil
