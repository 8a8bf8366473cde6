"""Mapping the guest's pages once, and letting go of them: by age, and to make room, each a bounded piece of work.

Room is made as blkback makes it, a few pages now and then: a guest that names a new page in each request costs it a
copy, and no mapping.  The order is that of a clock's hand, near enough to the least recently used.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from xenvbd.disk.disk cimport DISK_PAGES

cdef enum:
    SQUEEZE_NS = 100000000          # between two times that room is made
    SQUEEZE_PART = 20               # of the pages, each time


cdef class Kept:

    def __cinit__(self, GrantTable grants not None, DiskQueue disk not None, uint32_t domid, uint32_t cap,
                  double seconds):
        """disk: what works on them.  cap: pages, at most 2^20; 0: none, ever.  What is not used in half the seconds
        goes after the next half."""
        cdef uint32_t i, bits = max(1, (2 * cap - 1).bit_length() if cap else 1)
        self.grants, self.disk, self.domid, self.cap = grants, disk, domid, cap
        self.table.shift, self.table.mask = 32 - bits, (1 << bits) - 1
        self.pages = <kept_page *>calloc(max(1, cap), sizeof(kept_page))
        self.table.slots = <kept_page **>calloc(<size_t>self.table.mask + 1, sizeof(kept_page *))
        if self.pages == NULL or self.table.slots == NULL:
            raise MemoryError()
        for i in range(cap):
            self.pages[i].next_free, self.free = self.free, &self.pages[i]
        self.sweep_ns = <uint64_t>(seconds / 2 * 1e9)
        self.sweep_at = <uint64_t>-1

    def __dealloc__(self):
        if self.pages != NULL:
            kept_drop_all(self)         # does nothing once the handle is closed: they went with it
        free(self.pages)
        free(self.table.slots)


cdef kept_page *kept_search(const kept_table *table, uint32_t gref, uint32_t at) noexcept nogil:
    while table.slots[at] != NULL and table.slots[at].gref != gref:
        at = (at + 1) & table.mask
    return table.slots[at]


cdef void list_page(kept_table *table, kept_page *page) noexcept nogil:
    cdef uint32_t at = kept_home(table, page.gref)
    while table.slots[at] != NULL:
        at = (at + 1) & table.mask
    table.slots[at] = page


cdef void unlist_page(kept_table *table, kept_page *page) noexcept nogil:
    """Take it out of the table, and move those up that were put behind it."""
    cdef uint32_t hole = kept_home(table, page.gref), at
    while table.slots[hole] != page:
        hole = (hole + 1) & table.mask
    at = (hole + 1) & table.mask
    while table.slots[at] != NULL:
        # It may move up unless its own place lies behind the hole.
        if ((at - kept_home(table, table.slots[at].gref)) & table.mask) >= ((at - hole) & table.mask):
            table.slots[hole] = table.slots[at]
            hole = at
        at = (at + 1) & table.mask
    table.slots[hole] = NULL


cdef bint drop(Kept k, kept_page *page) noexcept nogil:
    """Unmap a page that nobody uses.  0: that failed, and it stays.

    It is taken from the engine first: what is pinned is not given back, whatever unmapping says."""
    if page.buffer and k.disk.register_page(page.buffer, NULL) < 0:
        return False
    page.buffer = 0
    if k.grants.c_unmap(page.address, 1) < 0:
        return False
    unlist_page(&k.table, page)
    page.address = NULL
    page.next_free, k.free = k.free, page
    k.count -= 1
    return True


cdef void make_room(Kept k) noexcept nogil:
    """Once round at most: let go of a few pages that were not used since the hand came by last."""
    cdef uint32_t _i, wanted = k.cap // SQUEEZE_PART + 1
    cdef kept_page *page
    for _i in range(2 * k.cap):
        if wanted == 0:
            break
        k.hand = k.hand + 1 if k.hand + 1 < k.cap else 0
        page = &k.pages[k.hand]
        if page.address != NULL and page.users == 0:
            if page.recent:
                page.recent = 0
            else:
                wanted -= drop(k, page)


cdef void register_page(Kept k, kept_page *page) noexcept nogil:
    """Let the engine pin a page that was mapped, so that it need not look it up each time."""
    cdef uint32_t number = <uint32_t>(page - k.pages) + 1
    if k.refused or number > DISK_PAGES:
        return
    k.refused = k.disk.register_page(number, page.address) < 0
    page.buffer = 0 if k.refused else <uint16_t>number


cdef kept_page *kept_add(Kept k, uint32_t gref) noexcept nogil:
    cdef kept_page *page
    cdef void *address = NULL
    if k.count == k.cap and k.now >= k.squeeze_at:
        k.squeeze_at = k.now + SQUEEZE_NS
        make_room(k)
    if k.count == k.cap or k.grants.c_map(k.domid, &gref, 1, True, &address) < 0:
        return NULL
    if k.count == 0:
        k.sweep_at = k.now + k.sweep_ns
    page = k.free
    k.free = page.next_free
    page.address, page.gref, page.users, page.recent = <char *>address, gref, 0, 1
    register_page(k, page)
    list_page(&k.table, page)
    k.count += 1
    return page


cdef bint kept_take_all(Kept k, work *w) noexcept nogil:
    cdef kept_table table = k.table             # a copy: the compiler cannot know that nothing below changes it
    cdef const blkif_request_segment *segment = w.segments
    cdef const blkif_request_segment *last = segment + w.plan.nr_segments
    cdef kept_page **kept = w.kept
    cdef iovec *vector = w.vectors
    cdef char *end = NULL
    cdef char *start
    cdef kept_page *page
    cdef uint32_t length
    while segment != last:
        page = kept_find(&table, segment.gref)
        if page == NULL:
            page = kept_add(k, segment.gref)
            if page == NULL:
                kept_give(w, <uint32_t>(kept - w.kept))
                return False
        page.users += 1
        page.recent = 1
        kept[0] = page
        start = page.address + segment.first_sect * XENVBD_SECTOR_SIZE
        length = (segment.last_sect - <uint32_t>segment.first_sect + 1) * XENVBD_SECTOR_SIZE
        if start == end:
            (vector - 1).iov_len += length
        else:
            vector.iov_base, vector.iov_len = start, length
            vector += 1
        end = start + length
        kept += 1
        segment += 1
    w.nr_vectors = <uint32_t>(vector - w.vectors)
    # Several pages, also those that happen to adjoin, are several registrations.
    w.op.buffer = page.buffer if w.plan.nr_segments == 1 else 0
    return True


cdef void kept_sweep(Kept k, uint64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(k.cap):
        if k.pages[i].address != NULL and k.pages[i].users == 0:
            if k.pages[i].recent:
                k.pages[i].recent = 0
            else:
                drop(k, &k.pages[i])
    k.sweep_at = now + k.sweep_ns if k.count else <uint64_t>-1


cdef void kept_drop_idle(Kept k) noexcept nogil:
    cdef uint32_t i
    for i in range(k.cap):
        if k.pages[i].address != NULL and k.pages[i].users == 0:
            drop(k, &k.pages[i])


cdef void kept_drop_all(Kept k) noexcept nogil:
    cdef uint32_t i
    for i in range(k.cap):
        k.pages[i].users = 0
    kept_drop_idle(k)
