"""The shared blkif ring, both ends.  This module alone dereferences ring memory; it knows no hypervisor.

Indices are u32 and modular; the number of entries is ours, computed from the pages mapped (ring.h,
__RING_SIZE: rounded down to a power of two).
"""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    /* Copy a wide entry out of the ring, 16 bytes at a time, each loaded once: volatile (XSA-155).  Its head. */
    static inline uint32_t xenvbd_copy_entry(void *to, const void *from)
    {
        typedef uint64_t wide __attribute__((vector_size(16), aligned(8), may_alias));
        const volatile wide *source = (const volatile wide *)from;
        wide *copy = (wide *)to, a = source[0], b = source[1], c = source[2], d = source[3];
        copy[0] = a, copy[1] = b, copy[2] = c, copy[3] = d;
        b = source[4], c = source[5], d = source[6];
        copy[4] = b, copy[5] = c, copy[6] = d;
        return (uint32_t)a[0];
    }
    """
    enum:
        _RELAXED "__ATOMIC_RELAXED"
    uint32_t _copy_entry "xenvbd_copy_entry"(void *to, const void *source) noexcept nogil
    uint32_t _load32 "__atomic_load_n"(const uint32_t *p, int order) noexcept nogil
    void _store64 "__atomic_store_n"(uint64_t *p, uint64_t value, int order) noexcept nogil

cdef extern from "xenvbd/blkif_abi.h" nogil:
    enum xenvbd_abi:
        XENVBD_ABI_NATIVE
        XENVBD_ABI_X86_32
        XENVBD_ABI_X86_64
    enum:
        XENVBD_PAGE_SIZE
        XENVBD_SECTOR_SIZE
        XENVBD_SEGMENTS_PER_INDIRECT_PAGE
        XENVBD_NONCE_OFFSET
        XENVBD_NONCE_WORDS
        BLKIF_MAX_SEGMENTS_PER_REQUEST
        BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST
        BLKIF_OP_READ
        BLKIF_OP_WRITE
        BLKIF_OP_WRITE_BARRIER
        BLKIF_OP_FLUSH_DISKCACHE
        BLKIF_OP_DISCARD
        BLKIF_OP_INDIRECT
        BLKIF_DISCARD_SECURE
        BLKIF_RSP_OKAY
        BLKIF_RSP_ERROR
        BLKIF_RSP_EOPNOTSUPP
    struct blkif_request_segment:
        uint32_t gref
        uint8_t first_sect
        uint8_t last_sect
    union xenvbd_request_u "":
        blkif_request_segment seg[11]
        uint32_t indirect_gref[8]
        uint64_t nr_sectors
    struct xenvbd_request:
        uint8_t operation
        uint8_t sub
        uint16_t nr_segments
        uint16_t handle
        uint16_t pad
        uint64_t id
        uint64_t sector
        xenvbd_request_u u


cdef enum:
    RING_HEADER = 64            # offsetof(struct blkif_sring, ring), asserted in blkif_abi.h

cdef struct back_ring:
    void *sring
    uint32_t nr_ents
    uint32_t req_cons           # the next request to take
    uint32_t rsp_prod_pvt       # responses written so far, published or not
    uint32_t rsp_prod           # responses published
    uint32_t stride             # bytes of an entry
    bint narrow                 # 64-bit fields lie on 4-byte boundaries
    int abi

cdef struct front_ring:
    void *sring
    uint32_t nr_ents
    uint32_t req_prod_pvt
    uint32_t rsp_cons
    int abi

# Entries of a ring of so many pages; 0: the abi is not one.
cdef uint32_t ring_entries(uint32_t pages, int abi) noexcept nogil

# The backend's end.  back_attach(): req_cons and rsp_prod start at `index` (0 for a fresh ring).
cdef void back_attach(back_ring *ring, void *sring, uint32_t pages, int abi, uint32_t index) noexcept nogil
# The same where an earlier worker left off: the shared page has this rsp_prod from here on.
cdef void back_adopt(back_ring *ring, void *sring, uint32_t pages, int abi, uint32_t req_cons,
                     uint32_t rsp_prod) noexcept nogil
# Requests posted and not taken, req_prod read once (acquire); -EPROTO: the producer overran the ring (R2).
cdef int back_pending(back_ring *ring) noexcept nogil
# The layouts and operations that are not the common one.
cdef void back_take_narrow(const char *p, xenvbd_request *out) noexcept nogil
cdef void rearrange(xenvbd_request *out) noexcept nogil
cdef void back_respond_narrow(char *p, uint64_t id, uint32_t tail) noexcept nogil


cdef inline char *back_entry(const back_ring *ring, uint32_t index) noexcept nogil:
    return <char *>ring.sring + RING_HEADER + <size_t>(index & (ring.nr_ents - 1)) * ring.stride


cdef inline void spread_head(uint32_t head, xenvbd_request *out) noexcept nogil:
    """An entry's first word, as that of a READ."""
    out.operation, out.sub, out.nr_segments = <uint8_t>head, 0, <uint8_t>(head >> 8)
    out.handle = <uint16_t>(head >> 16)


cdef inline void back_take(back_ring *ring, xenvbd_request *out) noexcept nogil:
    """Copy the request at req_cons into *out, each shared byte loaded once (XSA-155), and step req_cons."""
    cdef const char *p = back_entry(ring, ring.req_cons)
    ring.req_cons += 1
    if ring.narrow:
        back_take_narrow(p, out)
        return
    spread_head(_copy_entry(out, p), out)
    if out.operation >= BLKIF_OP_DISCARD:
        rearrange(out)


cdef inline void back_respond(back_ring *ring, uint64_t id, uint8_t operation, int16_t status) noexcept nogil:
    """Write a response at rsp_prod_pvt and step it.  Whole words: the padding is zeroed by the same stores that fill
    the fields (XSA-216)."""
    cdef char *p = back_entry(ring, ring.rsp_prod_pvt)
    cdef uint32_t tail = operation | <uint32_t>(<uint16_t>status) << 16
    ring.rsp_prod_pvt += 1
    if ring.narrow:
        back_respond_narrow(p, id, tail)
        return
    _store64(<uint64_t *>p, id, _RELAXED)
    _store64(<uint64_t *>(p + 8), tail, _RELAXED)


# Publish what was written; 1 if the frontend asked to be notified (rsp_event), else 0.
cdef bint back_push(back_ring *ring) noexcept nogil
# Before sleeping: ask for an event at the next request; 1 if there is one already (then do not sleep).
cdef bint back_final_check(back_ring *ring) noexcept nogil
# The published indices as the shared page has them (adoption only: the guest can write them).
cdef uint32_t back_shared_rsp_prod(const back_ring *ring) noexcept nogil
cdef uint32_t back_shared_req_prod(const back_ring *ring) noexcept nogil
# Four words that tell this ring from the next in the same place: write them into its padding; whether they are there.
cdef void back_mark(back_ring *ring, const uint32_t *nonce) noexcept nogil
cdef bint back_is_marked(const back_ring *ring, const uint32_t *nonce) noexcept nogil

# The frontend's end, the mirror image.
cdef void front_init(front_ring *ring, void *sring, uint32_t pages, int abi, uint32_t index) noexcept nogil
cdef uint32_t front_free(front_ring *ring) noexcept nogil
cdef void front_put(front_ring *ring, const xenvbd_request *request) noexcept nogil
cdef bint front_push(front_ring *ring) noexcept nogil
cdef int front_pending(front_ring *ring) noexcept nogil
cdef void front_take(front_ring *ring, uint64_t *id, uint8_t *operation, int16_t *status) noexcept nogil
cdef bint front_final_check(front_ring *ring) noexcept nogil

# A ring.Request of the Python face as the struct; ValueError, OverflowError, TypeError if it does not fit.
cdef void request_from_python(xenvbd_request *out, object request) except *
cdef object request_to_python(const xenvbd_request *request)
