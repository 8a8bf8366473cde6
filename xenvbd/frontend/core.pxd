"""One queue of the frontend: a ring, its event channel, and the check of every response."""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from xenvbd.frontend.pool cimport MAX_SEGMENTS, PagePool, page
from xenvbd.frontend.shadow cimport Shadow
from xenvbd.hv.evtchn cimport EventChannels
from xenvbd.hv.grant cimport Shared
from xenvbd.hv.ops cimport Hypervisor
from xenvbd.ring cimport blkif_request_segment, front_ring

cdef enum slot_state:
    SLOT_FREE
    SLOT_PENDING        # on the ring
    SLOT_ANSWERED       # status is there; release() frees it

cdef enum:
    RAW = 255           # operation of a slot whose request the caller made itself

cdef enum fault_kind:
    FAULT_NONE
    FAULT_OVERRUN       # more responses than requests
    FAULT_UNKNOWN       # an id that no request ever had
    FAULT_DUPLICATE     # an id that was answered before
    FAULT_OPERATION     # another operation than the request's
    FAULT_STATUS        # a status that blkif.h does not have, or one that was not expected
    FAULT_DATA          # a sector that was never written so
    FAULT_UNANSWERED    # no response by the deadline
    FAULT_SYSTEM        # pages cannot be taken back: errno in status

cdef struct fault:
    int kind
    uint32_t index      # of the response in the ring
    uint64_t id
    int operation       # found
    int expected
    int status
    int slot            # -1: none
    uint64_t sector     # FAULT_DATA: the first wrong one; FAULT_OVERRUN: rsp_prod

cdef struct slot:
    uint64_t id
    uint64_t sector     # 512-byte units
    uint64_t version    # of the pattern; 0: not a pattern write
    uint64_t started    # ns, of the caller
    uint32_t sectors
    uint16_t nr_pages
    uint8_t skew        # sectors left out at the start of the first page
    uint8_t state
    uint8_t operation   # READ, WRITE ...; never INDIRECT
    uint8_t answer      # the operation its response must carry
    uint8_t flag        # of a DISCARD
    uint8_t odd         # a raw request: its id is the caller's
    int16_t status
    int32_t pages       # first of the list; -1: none
    int32_t descriptors  # the page with the segments of an indirect request; -1: none


cdef struct span:
    # The part of a request that lies in one page.
    uint64_t *words     # its first sector
    uint32_t first      # sector in the page
    uint32_t count      # sectors; 0: there is none
    uint32_t done       # sectors of the request before it
    page *page


cdef inline bint in_whole_pages(const slot *s) noexcept nogil:
    return (s.skew | s.sectors & 7) == 0


cdef class Peer:
    """A backend that runs in the frontend's own thread whenever the frontend would notify or wait."""
    cdef int serve(self) noexcept nogil


cdef class Core:
    """See core.pyx; FrontQueue is the whole."""
    cdef EventChannels channels
    cdef PagePool pool
    cdef Shared ring_pages
    cdef Peer peer
    cdef front_ring ring
    cdef slot *slots
    cdef uint16_t *free_slots
    cdef uint32_t nr_free_slots
    cdef uint64_t sequence
    cdef uint32_t nr_odd                # pending with an id of the caller's own
    cdef fault wrong
    cdef readonly uint32_t domid
    cdef readonly uint32_t port
    cdef readonly uint32_t entries      # of the ring
    cdef readonly str abi
    cdef public bint anonymous          # every request has id 0, as GRUB's have
    cdef public bint always_indirect    # even where 11 segments would do
    cdef public bint spin               # wait by looking, not by sleeping
    cdef public bint unmarked           # leave whole pages to be read as they are: their content is not looked at
    cdef public uint32_t max_segments   # of a request; more than 11 are sent as INDIRECT
    cdef public uint16_t handle
    cdef public uint8_t number_shift    # sector_number is in units of 512 << this
    cdef public uint8_t segment_shift   # first_sect and last_sect likewise
    cdef readonly uint64_t events_in
    cdef readonly uint64_t events_out
    cdef readonly uint64_t wakeups
    cdef readonly uint64_t pushes

    # A slot for a request of so many sectors, its pages taken; -EAGAIN: no slot or page free, -EINVAL: too large.
    cdef int begin(self, uint8_t operation, uint64_t sector, uint32_t sectors, uint8_t skew) noexcept nogil
    cdef void put(self, int index) noexcept nogil           # onto the ring
    cdef int push(self) noexcept nogil                      # publish, and notify if asked; 0 or a negative errno
    cdef int pending(self) noexcept nogil                   # responses to take; -EPROTO: wrong is filled
    cdef int take(self) noexcept nogil                      # the slot of the next response; -EPROTO: wrong is filled
    cdef int wait(self, uint64_t until) noexcept nogil      # till that ns; responses, 0: none, or an errno
    cdef int release(self, int index) noexcept nogil        # 0 or a negative errno
    cdef void fill(self, int index, Shadow shadow) noexcept nogil
    cdef int64_t verify(self, int index, Shadow shadow) noexcept nogil      # first bad sector or -1
    cdef void settle(self, int index, Shadow shadow) noexcept nogil
    cdef void copy_in(self, int index, const char *data) noexcept nogil
    cdef void copy_out(self, int index, char *data) noexcept nogil
    cdef bint spared(self, slot *s) noexcept nogil          # a READ left the bytes outside its segments alone
    cdef int blame(self, int kind, int index, int operation, int expected, int status) noexcept nogil

    cdef bint equip(self, slot *s, uint32_t n, bint indirect, bint writable) noexcept nogil
    cdef bint next_span(self, slot *s, span *at) noexcept nogil
    cdef void mark(self, slot *s) noexcept nogil
    cdef void segments(self, slot *s, blkif_request_segment *out) noexcept nogil
    cdef int notify(self) noexcept nogil
    cdef int find(self, uint64_t id, uint8_t operation) noexcept nogil
    cdef bint given_out(self, uint64_t id) noexcept nogil
    cdef int drain_events(self) noexcept nogil
    cdef int sleep(self, uint64_t until) noexcept nogil
    cdef void linger(self) noexcept nogil
    cdef int finish(self, int index, uint64_t until) noexcept nogil


cdef uint64_t now_ns() noexcept nogil
cdef uint64_t deadline(double seconds) noexcept nogil       # so many seconds from now
