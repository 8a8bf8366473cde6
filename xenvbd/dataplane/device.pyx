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
    uint64_t load64 "__atomic_load_n"(const uint64_t *p, int order) noexcept
    bint exchange "__atomic_compare_exchange_n"(uint64_t *p, uint64_t *expected, uint64_t value, bint weak, int order,
                                                int otherwise) noexcept
    int lowest_bit "__builtin_ctz"(unsigned bits) noexcept

cdef enum:
    ORDER_WAKE = 8          # queue.pxd's
    DISCARDS_A_DISK = 2
    # Device.discards: how many turns are taken; a bit for each queue that waits for one, and for each that was given
    # one and has not noticed yet.
    TAKEN_MASK = 0xFF
    WAITS_SHIFT = 16
    GIVEN_SHIFT = 32
    QUEUES_MASK = 0xFFFF


cdef class Device:
    pass


cdef void wake(Device device, uint32_t number) noexcept nogil:
    set_bits(device.peers[number].orders, ORDER_WAKE, __ATOMIC_SEQ_CST)
    kick(device.peers[number].control)


cdef void wake_all(Device device) noexcept nogil:
    cdef uint32_t i
    for i in range(device.nr_peers):
        wake(device, i)


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


cdef inline uint64_t waits(uint32_t number) noexcept nogil:
    return <uint64_t>1 << (WAITS_SHIFT + number)


cdef inline uint64_t given(uint32_t number) noexcept nogil:
    return <uint64_t>1 << (GIVEN_SHIFT + number)


cdef inline bint change(Device device, uint64_t *before, uint64_t after) noexcept nogil:
    """Whether nobody else has changed it meanwhile; if one has, *before is what it is now."""
    return exchange(&device.discards, before, after, False, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)


cdef bint device_take_discard(Device device, uint32_t number) noexcept nogil:
    cdef uint64_t before = load64(&device.discards, __ATOMIC_SEQ_CST), after
    cdef bint taken = False, done = False
    while not done:
        taken = True
        if before & given(number):
            after = before & ~given(number)
        elif before & TAKEN_MASK < DISCARDS_A_DISK:
            after = (before & ~waits(number)) + 1
        else:
            taken, after = False, before | waits(number)
        done = change(device, &before, after)
    return taken


cdef inline uint32_t next_of(uint32_t waiting, uint32_t number) noexcept nogil:
    """The first of these queues behind this one, round the end."""
    cdef uint32_t behind = waiting & ~((<uint32_t>2 << number) - 1)
    return <uint32_t>lowest_bit(behind if behind else waiting)


cdef void device_give_discard(Device device, uint32_t number) noexcept nogil:
    cdef uint64_t before = load64(&device.discards, __ATOMIC_SEQ_CST), after
    cdef uint32_t waiting = 0, heir = 0
    cdef bint done = False
    while not done:
        waiting = <uint32_t>(before >> WAITS_SHIFT) & QUEUES_MASK
        heir = next_of(waiting, number) if waiting else 0
        after = (before & ~waits(heir)) | given(heir) if waiting else before - 1
        done = change(device, &before, after)
    if waiting:
        wake(device, heir)


cdef void device_quit_discards(Device device, uint32_t number) noexcept nogil:
    cdef uint64_t before = load64(&device.discards, __ATOMIC_SEQ_CST)
    while not change(device, &before, before & ~(waits(number) | given(number))):
        pass
    if before & given(number):
        device_give_discard(device, number)


cdef bint device_leave(Device device) noexcept nogil:
    return add(&device.running, <uint32_t>-1, __ATOMIC_SEQ_CST) == 0
