"""The body of ring.pxd, and a small Python face over any writable buffer: BackRing and FrontRing.

Bytes shared with the guest are read here with atomic loads, each once a request (XSA-155): what the compiler
must not do is load one again after a check.  Everything behind looks at the private copy.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy, memmove, memset

import errno
from collections import namedtuple

cdef extern from * nogil:
    enum:
        __ATOMIC_RELAXED
        __ATOMIC_ACQUIRE
        __ATOMIC_RELEASE
        __ATOMIC_SEQ_CST
    uint32_t load32 "__atomic_load_n"(const uint32_t *p, int order)
    uint64_t load64 "__atomic_load_n"(const uint64_t *p, int order)
    void store32 "__atomic_store_n"(uint32_t *p, uint32_t value, int order)
    void store64 "__atomic_store_n"(uint64_t *p, uint64_t value, int order)
    void fence "__atomic_thread_fence"(int order)

cdef extern from "xenvbd/blkif_abi.h" nogil:
    struct blkif_sring:
        uint32_t req_prod, req_event, rsp_prod, rsp_event
        # the rest is padding up to the first entry
    ctypedef struct blkif_request_t:
        pass
    struct xenvbd_x86_32_request:
        pass
    struct xenvbd_x86_64_request:
        pass

cdef enum:
    EPROTO = 71
    HEAD_32 = 20                # bytes before the segments
    HEAD_64 = 24
    INDIRECT_GREFS_32 = 24
    INDIRECT_GREFS_64 = 28


cdef inline bint narrow(int abi) noexcept nogil:
    """Whether 64-bit fields lie on 4-byte boundaries: the only thing the ABIs differ in."""
    return abi == XENVBD_ABI_X86_32 or (
        abi == XENVBD_ABI_NATIVE and sizeof(blkif_request_t) == sizeof(xenvbd_x86_32_request))


cdef inline uint32_t entry_size(int abi) noexcept nogil:
    return sizeof(xenvbd_x86_32_request) if narrow(abi) else sizeof(xenvbd_x86_64_request)


cdef inline char *entry(void *sring, uint32_t nr_ents, int abi, uint32_t index) noexcept nogil:
    return <char *>sring + RING_HEADER + <size_t>(index & (nr_ents - 1)) * entry_size(abi)


cdef inline uint64_t load_wide(const char *p, bint narrow) noexcept nogil:
    """64 bits of shared memory; each byte is loaded once, in two halves where it may not be aligned."""
    if narrow:
        return load32(<const uint32_t *>p, __ATOMIC_RELAXED) | (
            <uint64_t>load32(<const uint32_t *>(p + 4), __ATOMIC_RELAXED) << 32)
    return load64(<const uint64_t *>p, __ATOMIC_RELAXED)


cdef uint32_t ring_entries(uint32_t pages, int abi) noexcept nogil:
    cdef uint32_t room, entries = 1
    if abi < XENVBD_ABI_NATIVE or abi > XENVBD_ABI_X86_64 or pages == 0 or pages > 1 << 16:
        return 0
    room = (pages * XENVBD_PAGE_SIZE - RING_HEADER) // entry_size(abi)
    while entries * 2 <= room:
        entries *= 2
    return entries


# The backend's end

cdef void back_attach(back_ring *ring, void *sring, uint32_t pages, int abi, uint32_t index) noexcept nogil:
    ring.sring = sring
    ring.nr_ents = ring_entries(pages, abi)
    ring.abi = abi
    ring.narrow = narrow(abi)
    ring.stride = entry_size(abi)
    ring.req_cons = ring.rsp_prod_pvt = ring.rsp_prod = index


cdef void back_adopt(back_ring *ring, void *sring, uint32_t pages, int abi, uint32_t req_cons,
                     uint32_t rsp_prod) noexcept nogil:
    back_attach(ring, sring, pages, abi, rsp_prod)
    ring.req_cons = req_cons
    store32(&(<blkif_sring *>sring).rsp_prod, rsp_prod, __ATOMIC_RELEASE)


cdef int back_pending(back_ring *ring) noexcept nogil:
    cdef uint32_t posted = load32(&(<blkif_sring *>ring.sring).req_prod, __ATOMIC_ACQUIRE) - ring.req_cons
    # One comparison finds a producer that ran ahead and one that went back: both exceed the room there is.
    if posted > ring.nr_ents - (ring.req_cons - ring.rsp_prod_pvt):
        return -EPROTO
    return <int>posted


cdef void rearrange(xenvbd_request *out) noexcept nogil:
    """A copy whose head and body are still where a READ's would be: put in place what the operation has there."""
    cdef uint32_t *words = <uint32_t *>&out.u
    if out.operation == BLKIF_OP_DISCARD:
        out.sub, out.nr_segments = <uint8_t>out.nr_segments, 0
    elif out.operation == BLKIF_OP_INDIRECT:
        # The handle stands behind the sector, and shares a word with padding.
        out.sub, out.nr_segments, out.handle = <uint8_t>out.nr_segments, out.handle, <uint16_t>words[0]
        memmove(words, words + 1, sizeof(out.u.indirect_gref))


cdef void back_take_narrow(const char *p, xenvbd_request *out) noexcept nogil:
    cdef uint32_t *words = <uint32_t *>&out.u
    cdef const uint32_t *body = <const uint32_t *>(p + HEAD_32)
    cdef uint32_t i
    spread_head(load32(<const uint32_t *>p, __ATOMIC_RELAXED), out)
    out.id = load_wide(p + 4, True)
    out.sector = load_wide(p + 12, True)
    for i in range(sizeof(out.u) // 4):
        words[i] = load32(body + i, __ATOMIC_RELAXED)
    if out.operation >= BLKIF_OP_DISCARD:
        rearrange(out)


cdef void back_respond_narrow(char *p, uint64_t id, uint32_t tail) noexcept nogil:
    store32(<uint32_t *>p, <uint32_t>id, __ATOMIC_RELAXED)
    store32(<uint32_t *>(p + 4), <uint32_t>(id >> 32), __ATOMIC_RELAXED)
    store32(<uint32_t *>(p + 8), tail, __ATOMIC_RELAXED)


cdef bint back_push(back_ring *ring) noexcept nogil:
    cdef blkif_sring *sring = <blkif_sring *>ring.sring
    cdef uint32_t old = ring.rsp_prod, new = ring.rsp_prod_pvt
    store32(&sring.rsp_prod, new, __ATOMIC_RELEASE)
    ring.rsp_prod = new
    # The frontend writes rsp_event, then reads rsp_prod; we the other way round (ring.h): one sees the other.
    fence(__ATOMIC_SEQ_CST)
    return <uint32_t>(new - load32(&sring.rsp_event, __ATOMIC_RELAXED)) < <uint32_t>(new - old)


cdef bint back_final_check(back_ring *ring) noexcept nogil:
    cdef blkif_sring *sring = <blkif_sring *>ring.sring
    if load32(&sring.req_prod, __ATOMIC_RELAXED) != ring.req_cons:
        return True
    store32(&sring.req_event, ring.req_cons + 1, __ATOMIC_RELAXED)
    fence(__ATOMIC_SEQ_CST)
    return load32(&sring.req_prod, __ATOMIC_RELAXED) != ring.req_cons


cdef uint32_t back_shared_rsp_prod(const back_ring *ring) noexcept nogil:
    return load32(&(<blkif_sring *>ring.sring).rsp_prod, __ATOMIC_ACQUIRE)


cdef uint32_t back_shared_req_prod(const back_ring *ring) noexcept nogil:
    return load32(&(<blkif_sring *>ring.sring).req_prod, __ATOMIC_ACQUIRE)


cdef inline uint32_t *padding(const back_ring *ring) noexcept nogil:
    return <uint32_t *>(<char *>ring.sring + XENVBD_NONCE_OFFSET)


cdef void back_mark(back_ring *ring, const uint32_t *nonce) noexcept nogil:
    cdef int i
    for i in range(XENVBD_NONCE_WORDS):
        store32(padding(ring) + i, nonce[i], __ATOMIC_RELAXED)


cdef bint back_is_marked(const back_ring *ring, const uint32_t *nonce) noexcept nogil:
    cdef uint32_t differing = 0
    cdef int i
    for i in range(XENVBD_NONCE_WORDS):
        differing |= load32(padding(ring) + i, __ATOMIC_RELAXED) ^ nonce[i]
    return differing == 0


# The frontend's end

cdef void front_init(front_ring *ring, void *sring, uint32_t pages, int abi, uint32_t index) noexcept nogil:
    cdef blkif_sring *shared = <blkif_sring *>sring
    memset(sring, 0, RING_HEADER)
    shared.req_prod = shared.rsp_prod = index
    shared.req_event = shared.rsp_event = index + 1
    ring.sring = sring
    ring.nr_ents = ring_entries(pages, abi)
    ring.abi = abi
    ring.req_prod_pvt = ring.rsp_cons = index


cdef uint32_t front_free(front_ring *ring) noexcept nogil:
    return ring.nr_ents - (ring.req_prod_pvt - ring.rsp_cons)


cdef void put_indirect(char *p, bint narrow, const xenvbd_request *request) noexcept nogil:
    cdef char *grefs = p + (INDIRECT_GREFS_32 if narrow else INDIRECT_GREFS_64)
    memcpy(p + 1, &request.sub, 1)
    memcpy(p + 2, &request.nr_segments, 2)
    memcpy(p + (HEAD_32 if narrow else HEAD_64), &request.handle, 2)
    memcpy(grefs, request.u.indirect_gref, sizeof(request.u.indirect_gref))


cdef void put_direct(char *p, bint narrow, const xenvbd_request *request) noexcept nogil:
    cdef bint discard = request.operation == BLKIF_OP_DISCARD
    cdef uint8_t second = request.sub if discard else <uint8_t>request.nr_segments
    memcpy(p + 1, &second, 1)
    memcpy(p + 2, &request.handle, 2)
    if discard:
        memcpy(p + (HEAD_32 if narrow else HEAD_64), &request.u.nr_sectors, 8)
    else:
        memcpy(p + (HEAD_32 if narrow else HEAD_64), request.u.seg,
               8 * min(second, <size_t>BLKIF_MAX_SEGMENTS_PER_REQUEST))


cdef void front_put(front_ring *ring, const xenvbd_request *request) noexcept nogil:
    cdef bint is32 = narrow(ring.abi)
    cdef char *p = entry(ring.sring, ring.nr_ents, ring.abi, ring.req_prod_pvt)
    cdef char *body = p + (HEAD_32 if is32 else HEAD_64)
    memcpy(p, &request.operation, 1)
    memcpy(body - 16, &request.id, 8)
    memcpy(body - 8, &request.sector, 8)
    if request.operation == BLKIF_OP_INDIRECT:
        put_indirect(p, is32, request)
    else:
        put_direct(p, is32, request)
    ring.req_prod_pvt += 1


cdef bint front_push(front_ring *ring) noexcept nogil:
    cdef blkif_sring *sring = <blkif_sring *>ring.sring
    cdef uint32_t old = load32(&sring.req_prod, __ATOMIC_RELAXED), new = ring.req_prod_pvt
    store32(&sring.req_prod, new, __ATOMIC_RELEASE)
    fence(__ATOMIC_SEQ_CST)
    return <uint32_t>(new - load32(&sring.req_event, __ATOMIC_RELAXED)) < <uint32_t>(new - old)


cdef int front_pending(front_ring *ring) noexcept nogil:
    cdef uint32_t posted = load32(&(<blkif_sring *>ring.sring).rsp_prod, __ATOMIC_ACQUIRE) - ring.rsp_cons
    if posted > ring.req_prod_pvt - ring.rsp_cons:
        return -EPROTO
    return <int>posted


cdef void front_take(front_ring *ring, uint64_t *id, uint8_t *operation, int16_t *status) noexcept nogil:
    cdef char *p = entry(ring.sring, ring.nr_ents, ring.abi, ring.rsp_cons)
    cdef uint32_t tail = load32(<uint32_t *>(p + 8), __ATOMIC_RELAXED)
    id[0] = load_wide(p, narrow(ring.abi))
    operation[0] = <uint8_t>tail
    status[0] = <int16_t>(tail >> 16)
    ring.rsp_cons += 1


cdef bint front_final_check(front_ring *ring) noexcept nogil:
    cdef blkif_sring *sring = <blkif_sring *>ring.sring
    if load32(&sring.rsp_prod, __ATOMIC_RELAXED) != ring.rsp_cons:
        return True
    store32(&sring.rsp_event, ring.rsp_cons + 1, __ATOMIC_RELAXED)
    fence(__ATOMIC_SEQ_CST)
    return load32(&sring.rsp_prod, __ATOMIC_RELAXED) != ring.rsp_cons


# The Python face

ABIS = {"native": XENVBD_ABI_NATIVE, "x86_32-abi": XENVBD_ABI_X86_32, "x86_64-abi": XENVBD_ABI_X86_64}

Request = namedtuple(
    "Request", "operation id sector segments sub nr_segments handle grefs nr_sectors",
    defaults=(0, 0, (), 0, None, 0, (), 0))
Request.__doc__ = """A request as ring.pxd's xenvbd_request has it.

operation, sub (indirect_op, or a discard's flag), id, sector and nr_sectors (512-byte units), segments
((gref, first_sect, last_sect), ...), grefs (indirect pages).  nr_segments None: as many as segments has.
"""


cdef void request_from_python(xenvbd_request *out, object request) except *:
    if len(request.segments) > BLKIF_MAX_SEGMENTS_PER_REQUEST:
        raise ValueError("more segments than a request has room for")
    if len(request.grefs) > BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST:
        raise ValueError("more indirect pages than a request has room for")
    memset(out, 0, sizeof(out[0]))
    out.operation, out.sub, out.handle = request.operation, request.sub, request.handle
    out.id, out.sector = request.id, request.sector
    out.nr_segments = len(request.segments) if request.nr_segments is None else request.nr_segments
    if out.operation == BLKIF_OP_DISCARD:
        out.u.nr_sectors = request.nr_sectors
    elif out.operation == BLKIF_OP_INDIRECT:
        for i, gref in enumerate(request.grefs):
            out.u.indirect_gref[i] = gref
    else:
        for i, (gref, first, last) in enumerate(request.segments):
            out.u.seg[i].gref, out.u.seg[i].first_sect, out.u.seg[i].last_sect = gref, first, last


cdef object request_to_python(const xenvbd_request *request):
    cdef const xenvbd_request *r = request
    segments, grefs, nr_sectors = (), (), 0
    if r.operation == BLKIF_OP_DISCARD:
        nr_sectors = r.u.nr_sectors
    elif r.operation == BLKIF_OP_INDIRECT:
        pages = -(-r.nr_segments // XENVBD_SEGMENTS_PER_INDIRECT_PAGE)
        grefs = tuple(r.u.indirect_gref[i] for i in range(min(pages, BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST)))
    else:
        segments = tuple((r.u.seg[i].gref, r.u.seg[i].first_sect, r.u.seg[i].last_sect)
                         for i in range(min(r.nr_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)))
    return Request(r.operation, r.id, r.sector, segments, r.sub, r.nr_segments, r.handle, grefs, nr_sectors)


cdef class _Ring:
    """A writable buffer that holds a shared ring of whole pages."""
    cdef Py_buffer buffer
    cdef bint held
    cdef readonly uint32_t entries

    def __cinit__(self, memory, abi="native", index=0):
        PyObject_GetBuffer(memory, &self.buffer, PyBUF_WRITABLE)
        self.held = True
        if abi not in ABIS:
            raise ValueError(f"not an ABI: {abi!r}")
        if self.buffer.len < XENVBD_PAGE_SIZE or self.buffer.len % XENVBD_PAGE_SIZE:
            raise ValueError("a ring is whole pages")

    cdef uint32_t pages(self):
        return <uint32_t>(self.buffer.len // XENVBD_PAGE_SIZE)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef class BackRing(_Ring):
    """The backend's end over a writable buffer of whole pages: BackRing(memory, abi="native", index=0)."""
    cdef back_ring ring

    def __init__(self, memory, abi="native", uint32_t index=0):
        back_attach(&self.ring, self.buffer.buf, self.pages(), ABIS[abi], index)
        self.entries = self.ring.nr_ents

    def pending(self):
        """Requests posted and not taken.  OSError(EPROTO): the producer overran the ring."""
        cdef int n = back_pending(&self.ring)
        if n < 0:
            raise OSError(-n, "request producer overran the ring")
        return n

    def take(self):
        """The next request, a Request; only pending() says whether there is one."""
        cdef xenvbd_request request
        back_take(&self.ring, &request)
        return request_to_python(&request)

    def respond(self, uint64_t id, uint8_t operation, int16_t status):
        """Write a response; push() publishes it."""
        back_respond(&self.ring, id, operation, status)

    def push(self):
        """Publish; True if the frontend asked to be notified."""
        return bool(back_push(&self.ring))

    def final_check(self):
        """Ask for an event at the next request; True if one is there already."""
        return bool(back_final_check(&self.ring))

    def shared_rsp_prod(self):
        """The published index as the shared page has it."""
        return back_shared_rsp_prod(&self.ring)


cdef class FrontRing(_Ring):
    """The frontend's end over a writable buffer of whole pages, which it initialises: as BackRing(...)."""
    cdef front_ring ring

    def __init__(self, memory, abi="native", uint32_t index=0):
        front_init(&self.ring, self.buffer.buf, self.pages(), ABIS[abi], index)
        self.entries = self.ring.nr_ents

    def free(self):
        """Requests there is room for."""
        return front_free(&self.ring)

    def put(self, request):
        """Write a Request at the next slot; push() publishes it.  OSError(ENOSPC) if the ring is full."""
        cdef xenvbd_request r
        if front_free(&self.ring) == 0:
            raise OSError(errno.ENOSPC, "ring is full")
        request_from_python(&r, request)
        front_put(&self.ring, &r)

    def push(self):
        """Publish; True if the backend asked to be notified."""
        return bool(front_push(&self.ring))

    def pending(self):
        """Responses to take.  OSError(EPROTO): more than requests outstanding."""
        cdef int n = front_pending(&self.ring)
        if n < 0:
            raise OSError(-n, "response producer overran the ring")
        return n

    def take(self):
        """The next response: (id, operation, status)."""
        cdef uint64_t id
        cdef uint8_t operation
        cdef int16_t status
        front_take(&self.ring, &id, &operation, &status)
        return id, operation, status

    def final_check(self):
        """Ask for an event at the next response; True if one is there already."""
        return bool(front_final_check(&self.ring))
