"""Pages of the guest that stay mapped (feature-persistent): a table by grant reference, and never more than a cap.

A page that requests use stays; of the others those go that were not used for a while.  What cannot be mapped, or finds
no room, is copied as without persistent grants: the answer is the copy's.
"""
from libc.stdint cimport uint32_t, uint64_t

from xenvbd.dataplane.work cimport kept_page, work
from xenvbd.disk.disk cimport DiskQueue, iovec
from xenvbd.hv.grant cimport GrantTable
from xenvbd.ring cimport XENVBD_SECTOR_SIZE, blkif_request_segment

cdef struct kept_table:
    kept_page **slots           # open addressing; NULL: nothing there
    uint32_t shift              # 32 less the bits of its size
    uint32_t mask


cdef class Kept:
    """The pages of one ring; of no use, and empty, with a cap of 0."""
    cdef GrantTable grants
    cdef DiskQueue disk
    cdef bint refused           # the engine registers no pages
    cdef kept_page *pages
    cdef kept_table table       # the pages by their grant references
    cdef readonly uint32_t cap
    cdef readonly uint32_t count
    cdef uint32_t domid
    cdef kept_page *free
    cdef uint32_t hand
    cdef uint64_t sweep_ns
    cdef uint64_t now           # of the pass
    cdef uint64_t squeeze_at    # not before this are pages let go to make room
    cdef readonly uint64_t sweep_at     # when to look for pages that nobody used


cdef inline uint32_t kept_home(const kept_table *table, uint32_t gref) noexcept nogil:
    return (gref * <uint32_t>0x9E3779B1) >> table.shift


# The same of one that is not at home.
cdef kept_page *kept_search(const kept_table *table, uint32_t gref, uint32_t at) noexcept nogil


cdef inline kept_page *kept_find(const kept_table *table, uint32_t gref) noexcept nogil:
    """The page if it is mapped, or NULL."""
    cdef uint32_t at = kept_home(table, gref)
    cdef kept_page *page = table.slots[at]
    if page == NULL or page.gref == gref:
        return page
    return kept_search(table, gref, at)


# Map a page that is not there.  NULL: there is no room, or it cannot be mapped.
cdef kept_page *kept_add(Kept k, uint32_t gref) noexcept nogil
# Let go of what was not used for a time (kept_take() sees to the time), of everything nobody uses, and of everything.
cdef void kept_sweep(Kept k, uint64_t now) noexcept nogil
cdef void kept_drop_idle(Kept k) noexcept nogil
cdef void kept_drop_all(Kept k) noexcept nogil


cdef inline void kept_give(work *w, uint32_t nr) noexcept nogil:
    """The first nr segments of a request need their pages no more."""
    cdef kept_page **page = w.kept
    cdef kept_page **end = page + nr
    while page != end:
        page[0].users -= 1
        page += 1


# As kept_take(), whatever the request.
cdef bint kept_take_all(Kept k, work *w) noexcept nogil


cdef inline bint kept_take(Kept k, const kept_table *table, work *w) noexcept nogil:
    """Find all pages of a request's data, and make its vectors of them; 0: one of them cannot be had.

    table: that of k, or a copy, which the compiler knows to stay as it is."""
    cdef const blkif_request_segment *segment = w.segments
    cdef kept_page *page
    # One segment is what random I/O has, and needs no loop: 35 instructions less.
    page = kept_find(table, segment.gref) if w.plan.nr_segments == 1 else NULL
    if page == NULL:
        return kept_take_all(k, w)
    page.users += 1
    page.recent = 1
    w.kept[0] = page
    w.op.buffer = page.buffer
    w.vectors.iov_base = page.address + segment.first_sect * XENVBD_SECTOR_SIZE
    w.vectors.iov_len = w.plan.sectors * XENVBD_SECTOR_SIZE
    w.nr_vectors = 1
    return True
