"""A request on its way: one for each journal slot, linked into one list at a time."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

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

cdef enum work_way:
    # What the end of its disk operation means, if that was done without a fault.
    WAY_OTHER = 0           # see settle_other()
    WAY_ANSWER = 1          # the request is done
    WAY_SCATTER = 2         # what was read is to be copied from the buffer to the guest

cdef struct kept_page:
    # A page of the guest that stays mapped: see kept.pxd.
    char *address           # NULL: not in use
    uint32_t gref
    uint32_t users          # segments of requests in flight
    uint32_t recent         # used since the hand or the sweep came by
    uint16_t buffer         # the engine's number of it, or 0: it has not registered it
    kept_page *next_free

cdef struct work:
    disk_op op                                  # first: a chain of operations is a list of their works
    xenvbd_journal_slot *slot                   # with the request; for good
    uint32_t number                             # the slot's; for good
    request_plan plan
    uint64_t since                              # ns: when it was consumed
    const blkif_request_segment *segments       # of data: the request's own, or a private copy of its pages
    uint8_t stage
    uint8_t way
    int16_t status                              # BLKIF_RSP_*; of use once it is finished
    uint32_t nr_vectors                         # pieces in the guest's own pages; 0: the data goes through the buffer
    kept_page **kept                            # persistent grants: room for the pages, one a segment
    iovec *vectors                              # room for the data's pieces, or for the buffer; for good
    uint32_t buffer                             # first page in the arena, or ARENA_NONE
    uint32_t first_copy                         # in the batch of grant copies
    uint8_t order                               # of the buffer
    uint8_t was_held                            # enum xenvbd_stop: why it is kept, and tried again
    uint64_t discarded                          # sectors of a discard done so far, or left out at its start
    uint64_t begun                              # ns: its piece that is being done
    blkif_request_segment *descriptors          # room for an indirect request's segments

cdef struct work_list:
    work *first
    work *last


cdef inline void push(work_list *works, work *w) noexcept nogil:
    w.op.next = NULL
    if works.first == NULL:
        works.first = w
    else:
        works.last.op.next = &w.op
    works.last = w


cdef inline work *behind(work *w) noexcept nogil:
    """The next in its list, or NULL."""
    return <work *>w.op.next


cdef inline work *pop(work_list *works) noexcept nogil:
    """The oldest, or NULL."""
    cdef work *w = works.first
    if w != NULL:
        works.first = behind(w)
    return w


cdef inline void push_all(work_list *works, work_list *more) noexcept nogil:
    """Move all of more, which is not empty, behind works."""
    if works.first == NULL:
        works.first = more.first
    else:
        works.last.op.next = &more.first.op
    works.last = more.last
    more.first = NULL


cdef inline work_list take_all(work_list *works) noexcept nogil:
    """The list, which is empty from here on."""
    cdef work_list all = works[0]
    works.first = NULL
    return all
