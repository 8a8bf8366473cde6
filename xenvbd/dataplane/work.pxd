"""A request on its way: one for each journal slot, linked into one list at a time."""
from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t

from xenvbd.disk.disk cimport disk_op, iovec
from xenvbd.journal cimport xenvbd_journal_slot
from xenvbd.request cimport request_plan
from xenvbd.ring cimport blkif_request_segment

cdef enum work_stage:
    WORK_TAKEN = 0
    WORK_REFUSED = 1        # found wrong: it was never begun
    WORK_DRAINING = 2       # a barrier: it waits to be alone
    WORK_FIRST = 3          # a flush or barrier: the flush before its data
    WORK_DATA = 4           # its write
    WORK_LAST = 5           # a barrier: the flush behind it

cdef struct kept_page:
    # A page of the guest that stays mapped: see kept.pxd.
    char *address           # NULL: not in use
    uint32_t gref
    uint32_t users          # segments of requests in flight
    uint32_t recent         # used since the hand or the sweep came by
    kept_page *next_free

cdef struct work:
    disk_op op
    iovec iov
    work *next
    xenvbd_journal_slot *slot                   # with the request; for good
    const blkif_request_segment *segments       # of data: the request's own, or a private copy of its pages
    blkif_request_segment *descriptors          # room for that copy
    request_plan plan
    uint32_t number                             # the slot's; for good
    uint64_t since                              # ns: when it was consumed
    uint64_t discarded                          # sectors of a discard done so far
    uint32_t buffer                             # first page in the arena, or ARENA_NONE
    uint32_t first_copy                         # in the batch of grant copies
    iovec *vectors                              # persistent grants: room for the data's pieces
    kept_page **kept                            # and for their pages, one a segment
    uint32_t nr_vectors                         # pieces in the guest's own pages; 0: the data goes through the buffer
    uint8_t order                               # of the buffer
    uint8_t stage
    uint8_t was_held                            # enum xenvbd_stop: why it is kept, and tried again
    int16_t status                              # BLKIF_RSP_*, once it is finished

cdef struct work_list:
    work *first
    work *last


cdef inline void push(work_list *works, work *w) noexcept nogil:
    w.next = NULL
    if works.first == NULL:
        works.first = w
    else:
        works.last.next = w
    works.last = w


cdef inline work *pop(work_list *works) noexcept nogil:
    """The oldest, or NULL."""
    cdef work *w = works.first
    if w != NULL:
        works.first = w.next
    return w


cdef inline void push_all(work_list *works, work_list *more) noexcept nogil:
    """Move all of more, which is not empty, behind works."""
    if works.first == NULL:
        works.first = more.first
    else:
        works.last.next = more.first
    works.last = more.last
    more.first = NULL


cdef inline work_list take_all(work_list *works) noexcept nogil:
    """The list, which is empty from here on."""
    cdef work_list all = works[0]
    works.first = NULL
    return all
