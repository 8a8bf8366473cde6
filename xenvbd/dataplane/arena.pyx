"""A buddy allocator over huge pages: no allocation, no system call, no lock once it is made."""
import os

from libc.errno cimport errno
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    int MADV_HUGEPAGE, MADV_DONTDUMP, MADV_DONTNEED
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)

cdef enum:
    HUGE = 2 << 20
    LARGEST = ARENA_ORDERS - 1


cdef void link(arena *a, uint32_t page, uint8_t order) noexcept nogil:
    """Put a block on its free list."""
    cdef uint32_t head = a.free[order]
    a.order[page] = order
    a.prev[page], a.next[page] = ARENA_NONE, head
    if head != ARENA_NONE:
        a.prev[head] = page
    a.free[order] = page


cdef void unlink(arena *a, uint32_t page, uint8_t order) noexcept nogil:
    cdef uint32_t before = a.prev[page], after = a.next[page]
    a.order[page] = ARENA_ORDERS
    if before != ARENA_NONE:
        a.next[before] = after
    else:
        a.free[order] = after
    if after != ARENA_NONE:
        a.prev[after] = before


cdef void merge(arena *a, uint32_t page, uint8_t order) noexcept nogil:
    """Give a block to the buddy system: joined with its other half as often as that is free."""
    while order < LARGEST and a.order[page ^ (<uint32_t>1 << order)] == order:
        unlink(a, page ^ (<uint32_t>1 << order), order)
        page &= ~(<uint32_t>1 << order)
        order += 1
    link(a, page, order)


cdef void merge_quick(arena *a) noexcept nogil:
    cdef uint32_t page, after
    cdef int order
    for order in range(ARENA_ORDERS):
        page, a.quick[order] = a.quick[order], ARENA_NONE
        while page != ARENA_NONE:
            after = a.next[page]
            merge(a, page, <uint8_t>order)
            page = after


cdef uint32_t split(arena *a, uint8_t order) noexcept nogil:
    """The first page of a block cut from the smallest free one that is large enough, or ARENA_NONE."""
    cdef uint8_t found = order
    cdef uint32_t page
    while found < LARGEST and a.free[found] == ARENA_NONE:
        found += 1
    page = a.free[found]
    if page == ARENA_NONE:
        return ARENA_NONE
    unlink(a, page, found)
    while found > order:
        found -= 1
        link(a, page + (<uint32_t>1 << found), found)
    a.touched = True
    return page


cdef uint32_t arena_split(arena *a, uint8_t order) noexcept nogil:
    cdef uint32_t page = split(a, order)
    if page == ARENA_NONE:
        merge_quick(a)
        page = split(a, order)
    return page


cdef void arena_trim(arena *a) noexcept nogil:
    merge_quick(a)
    madvise(a.base, <size_t>a.pages << 12, MADV_DONTNEED)
    a.touched = False


cdef class Arena:

    def __cinit__(self, size_t length):
        """length: bytes, rounded up to 2 MiB, so that the largest request always fits.  Raises OSError."""
        self.length = max(<size_t>1, (length + HUGE - 1) // HUGE) * HUGE
        map_huge(self)
        cdef uint32_t pages = self.c.pages
        self.c.next = <uint32_t *>calloc(pages, sizeof(uint32_t))
        self.c.prev = <uint32_t *>calloc(pages, sizeof(uint32_t))
        self.c.order = <uint8_t *>calloc(pages, 1)
        if self.c.next == NULL or self.c.prev == NULL or self.c.order == NULL:
            raise MemoryError()
        list_blocks(&self.c)

    def __dealloc__(self):
        if self.c.base != NULL:
            munmap(self.c.base, self.length)
        free(self.c.next)
        free(self.c.prev)
        free(self.c.order)

    def take(self, uint32_t length):
        """The number of the first page of a block of at least so many bytes, or None.  (For tests.)"""
        cdef uint32_t page = arena_take(&self.c, arena_order(length))
        return None if page == ARENA_NONE else page

    def give(self, uint32_t page, uint32_t length):
        """Give a block back.  (For tests.)"""
        arena_give(&self.c, page, arena_order(length))

    def trim(self):
        """Give the memory back to the kernel.  (For tests.)"""
        arena_trim(&self.c)

    def view(self):
        """The memory, as a memoryview.  (For tests.)"""
        return memoryview(<char[:self.length]>self.c.base).cast("B")

    @property
    def used(self):
        """Bytes handed out."""
        return (<size_t>self.c.pages << 12) - sum(
            (<size_t>1 << order) * (listed(&self.c, self.c.quick[order]) + listed(&self.c, self.c.free[order])) << 12
            for order in range(ARENA_ORDERS))


cdef uint32_t listed(arena *a, uint32_t page) noexcept:
    """Blocks in a list."""
    cdef uint32_t n = 0
    while page != ARENA_NONE:
        page = a.next[page]
        n += 1
    return n


cdef void map_huge(Arena self) except *:
    """Anonymous memory on a 2 MiB boundary, in huge pages where the kernel has them, in no core dump."""
    cdef size_t room = self.length + HUGE, head
    cdef void *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if memory == MAP_FAILED:
        raise OSError(errno, f"no memory for the ring's buffers: {os.strerror(errno)}")
    head = (HUGE - <uintptr_t>memory % HUGE) % HUGE
    if head:
        munmap(memory, head)
    munmap(<char *>memory + head + self.length, HUGE - head)
    self.c.base = <char *>memory + head
    self.c.pages = <uint32_t>(self.length >> 12)
    madvise(self.c.base, self.length, MADV_HUGEPAGE)
    madvise(self.c.base, self.length, MADV_DONTDUMP)


cdef void list_blocks(arena *a) noexcept:
    """Everything free, in the largest blocks, the lowest first."""
    cdef uint32_t page = a.pages
    cdef int order
    memset(a.order, ARENA_ORDERS, a.pages)
    for order in range(ARENA_ORDERS):
        a.free[order] = a.quick[order] = ARENA_NONE
    while page:
        page -= 1 << LARGEST
        link(a, page, LARGEST)
