"""The buffers of one ring: a fixed piece of memory, handed out in blocks of 4 KiB to 1 MiB, and never more.

A domain's data never meets another's here: the memory is fresh from the kernel, zeroed, when a ring is started, and
goes back to it when the ring is stopped (XSA-318: a copy may lie).
"""
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    ARENA_ORDERS = 9            # blocks of 1 << order pages: 4 KiB to 1 MiB
    ARENA_NONE = 0xFFFFFFFF

cdef struct arena:
    char *base
    uint32_t pages
    bint touched                # since the last arena_trim()
    # Blocks given back are kept as they are, the last one first: it is still in the caches.
    uint32_t quick[9]
    # What is in neither use nor quick is a buddy system: free[order] are doubly linked lists of first pages.
    uint32_t free[9]
    uint32_t *next
    uint32_t *prev
    uint8_t *order              # of the free block that starts at this page, or ARENA_ORDERS


# The order of the smallest block that holds so many bytes (1 to 1 MiB).
cdef inline uint8_t arena_order(uint32_t length) noexcept nogil:
    cdef uint32_t top = (length - 1) >> 12
    return 0 if top == 0 else <uint8_t>(32 - clz(top))


cdef extern from *:
    int clz "__builtin_clz"(unsigned value) noexcept nogil


cdef inline uint32_t arena_take(arena *a, uint8_t order) noexcept nogil:
    """The first page of a block, or ARENA_NONE."""
    cdef uint32_t page = a.quick[order]
    if page != ARENA_NONE:
        a.quick[order] = a.next[page]
        return page
    return arena_split(a, order)


cdef inline void arena_give(arena *a, uint32_t page, uint8_t order) noexcept nogil:
    a.next[page] = a.quick[order]
    a.quick[order] = page


cdef inline char *arena_address(arena *a, uint32_t page) noexcept nogil:
    return a.base + (<size_t>page << 12)


# As arena_take() when nothing of that size lies ready: split a larger block, or merge small ones first.
cdef uint32_t arena_split(arena *a, uint8_t order) noexcept nogil
# Give the memory back to the kernel.  Nothing may be in use, nor pinned by an engine.
cdef void arena_trim(arena *a) noexcept nogil


cdef class Arena:
    """The memory of an arena; it ends with the object."""
    cdef arena c
    cdef size_t length
