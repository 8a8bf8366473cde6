"""What the queues of one disk share: a failed flush stops all of them, one flush and two discards run at a time."""
from libc.stdint cimport uint32_t, uint64_t

from xenvbd.journal cimport journal

cdef enum:
    MAX_QUEUES = 16

cdef struct peer:
    uint32_t *orders
    int control
    journal *log

cdef class Device:
    cdef peer peers[16]
    cdef uint32_t nr_peers
    cdef uint32_t failed            # atomic
    cdef uint32_t flush_taken       # atomic: a queue's fdatasync runs
    cdef uint32_t flush_wanted      # atomic: another queue waits for it to end
    cdef uint64_t discards          # atomic: whose turn it is (device.pyx)
    cdef uint32_t running           # atomic: queues whose thread has not ended

# All queues of the disk stop answering for good; every journal says so first.
cdef void device_fail(Device device) noexcept nogil
cdef bint device_failed(Device device) noexcept nogil
# 1: this queue may flush now, and gives the turn back; 0: it will be woken to try again.
cdef bint device_take_flush(Device device) noexcept nogil
cdef void device_give_flush(Device device) noexcept nogil
# Whether this queue may do a piece of a discard now, and gives the turn back; 0: it will be woken when it may.
cdef bint device_take_discard(Device device, uint32_t number) noexcept nogil
# The turn is the next one's of those that wait for it, one queue after the other.
cdef void device_give_discard(Device device, uint32_t number) noexcept nogil
# This queue waits for no turn any more.
cdef void device_quit_discards(Device device, uint32_t number) noexcept nogil
# The caller's queue has ended: 1 if it was the last.
cdef bint device_leave(Device device) noexcept nogil
