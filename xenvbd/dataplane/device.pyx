"""The little that I/O threads of one disk say to each other: atomics, and a kick of the others' eventfds.

The kernel reports a failed write-back to one fdatasync on a description and to no other.  Two queues flushing at
once could so see one failure and one success; hence one at a time, and none after a failure.
"""
from xenvbd.dataplane.events cimport kick
from xenvbd.journal cimport journal_fail

cdef extern from * nogil:
    enum:
        __ATOMIC_SEQ_CST
    uint32_t load "__atomic_load_n"(const uint32_t *p, int order) noexcept
    uint32_t swap "__atomic_exchange_n"(uint32_t *p, uint32_t value, int order) noexcept
    uint32_t add "__atomic_add_fetch"(uint32_t *p, uint32_t value, int order) noexcept
    uint32_t set_bits "__atomic_fetch_or"(uint32_t *p, uint32_t bits, int order) noexcept

cdef enum:
    ORDER_WAKE = 8          # queue.pxd's


cdef class Device:
    pass


cdef void wake_all(Device device) noexcept nogil:
    cdef uint32_t i
    for i in range(device.nr_peers):
        set_bits(device.peers[i].orders, ORDER_WAKE, __ATOMIC_SEQ_CST)
        kick(device.peers[i].control)


cdef void device_fail(Device device) noexcept nogil:
    cdef uint32_t i
    for i in range(device.nr_peers):
        journal_fail(device.peers[i].log)
    swap(&device.failed, 1, __ATOMIC_SEQ_CST)
    wake_all(device)


cdef bint device_failed(Device device) noexcept nogil:
    return load(&device.failed, __ATOMIC_SEQ_CST) != 0


cdef bint device_take_flush(Device device) noexcept nogil:
    if swap(&device.flush_taken, 1, __ATOMIC_SEQ_CST) == 0:
        return True
    # Ask to be woken first, then look again: the turn may have been given back in between.
    swap(&device.flush_wanted, 1, __ATOMIC_SEQ_CST)
    return swap(&device.flush_taken, 1, __ATOMIC_SEQ_CST) == 0


cdef void device_give_flush(Device device) noexcept nogil:
    swap(&device.flush_taken, 0, __ATOMIC_SEQ_CST)
    if swap(&device.flush_wanted, 0, __ATOMIC_SEQ_CST):
        wake_all(device)


cdef bint device_leave(Device device) noexcept nogil:
    return add(&device.running, <uint32_t>-1, __ATOMIC_SEQ_CST) == 0
