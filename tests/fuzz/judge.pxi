# What both native targets judge by: what is found good must be within the limits by an arithmetic of its own, and a
# response must change no byte outside its slot.
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort
from libc.string cimport memcmp, memcpy, memset

from xenvbd.request cimport REQUEST_DISCARD, indirect_pages, request_limits, request_plan
from xenvbd.ring cimport back_respond, back_ring, blkif_request_segment, xenvbd_request

cdef enum:
    PAGE = 4096
    CHOICES = 16        # bytes of the input that are nobody's
    READ = 0            # blkif.h's numbers
    WRITE = 1
    BARRIER = 2
    FLUSH = 3
    RESERVED = 4
    DISCARD = 5
    INDIRECT = 6

cdef extern from * nogil:
    """
    static _Alignas(4096) unsigned char shared[4096];
    #define entry_bytes(abi) ((abi) == 1 ? 108 : 112)
    """
    uint8_t shared[4096]
    uint32_t entry_bytes(int abi)
    bint __builtin_add_overflow(uint64_t a, uint64_t b, uint64_t *sum)


cdef void must(bint truth) noexcept nogil:
    if not truth:
        abort()


cdef void choose(const uint8_t *data, request_limits *limits, int *abi, uint32_t *index) noexcept nogil:
    """16 bytes: ABI, flags, block size, unit, max_indirect, capacity's exponent and offset, index."""
    memset(limits, 0, sizeof(limits[0]))
    abi[0] = data[0] % 3
    limits.read_only, limits.discard, limits.barrier = data[1] & 1, data[1] >> 1 & 1, data[1] >> 2 & 1
    limits.block_mask = 7 if data[1] & 8 else 0
    limits.unit_shift = 3 if data[1] & 16 and limits.block_mask else 0
    limits.max_indirect = data[2] | <uint16_t>(data[3] & 15) << 8
    limits.capacity = (<uint64_t>1 << data[4] % 56) + data[5]
    limits.capacity &= ~<uint64_t>limits.block_mask
    memcpy(index, data + 8, 4)


cdef void judge_data(const xenvbd_request *r, const blkif_request_segment *segments, const request_plan *plan,
                     const request_limits *limits) noexcept nogil:
    """All of it lies in its pages and on the disk: added up here in another way."""
    cdef uint64_t total = 0, end = 0
    cdef uint32_t i
    for i in range(plan.nr_segments):
        must(segments[i].first_sect <= segments[i].last_sect and segments[i].last_sect <= 7)
        total += <uint64_t>segments[i].last_sect - segments[i].first_sect + 1
    must(total == plan.sectors)
    must(not __builtin_add_overflow(r.sector, total, &end) and end <= limits.capacity)
    must(r.sector % (limits.block_mask + 1) == 0 and total % (limits.block_mask + 1) == 0)


cdef void judge(const xenvbd_request *r, int16_t status, const request_plan *plan,
                const request_limits *limits) noexcept nogil:
    cdef uint64_t end = 0
    cdef uint8_t sub = r.sub if r.operation == INDIRECT else r.operation
    must(status == 0 or status == -1 or status == -2)
    must(plan.reply_op == sub)
    if status != 0:
        return
    must(r.operation <= INDIRECT and r.operation != RESERVED and plan.kind <= 4)
    if limits.read_only:
        must(sub == READ or (sub == FLUSH and plan.nr_segments == 0))
    if r.operation == DISCARD:
        must(limits.discard and r.sub == 0 and plan.kind == REQUEST_DISCARD)
        must(not __builtin_add_overflow(r.sector, r.u.nr_sectors, &end) and end <= limits.capacity)
    elif r.operation == INDIRECT:
        must((sub == READ or sub == WRITE) and 1 <= r.nr_segments <= limits.max_indirect)
        must(indirect_pages(r.nr_segments) <= 8 and plan.nr_segments == r.nr_segments)
    else:
        must(plan.nr_segments <= 11 and (plan.nr_segments or sub > WRITE))
        must(limits.barrier or r.operation != BARRIER)
        if plan.nr_segments:
            judge_data(r, r.u.seg, plan, limits)


cdef void answer(back_ring *ring, const xenvbd_request *r, const request_plan *plan, int16_t status) noexcept nogil:
    """Only the slot changes, and in it only zeros are between the fields (XSA-216)."""
    cdef uint8_t before[4096]
    cdef uint32_t entry = entry_bytes(ring.abi)
    cdef uint32_t at = 64 + (ring.rsp_prod_pvt & (ring.nr_ents - 1)) * entry
    cdef uint32_t length = 12 if entry == 108 else 16
    memcpy(before, shared, PAGE)
    back_respond(ring, r.id, plan.reply_op, status)
    must(memcmp(before, shared, at) == 0)
    must(memcmp(before + at + length, shared + at + length, PAGE - at - length) == 0)
    must(memcmp(&r.id, shared + at, 8) == 0 and shared[at + 8] == plan.reply_op and shared[at + 9] == 0)
    must(memcmp(&status, shared + at + 10, 2) == 0)
    if length == 16:
        must((shared[at + 12] | shared[at + 13] | shared[at + 14] | shared[at + 15]) == 0)
