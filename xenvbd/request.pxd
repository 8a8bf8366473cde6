"""A request judged: what a frontend may ask for, and what a request asks for once it is found good."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

from xenvbd.ring cimport (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    XENVBD_PAGE_SIZE,
    XENVBD_SECTOR_SIZE,
    blkif_request_segment,
    xenvbd_request,
)

cdef enum request_kind:
    REQUEST_READ = 0        # the order of enum xenvbd_stat_op; these two are BLKIF_OP_READ and BLKIF_OP_WRITE
    REQUEST_WRITE = 1
    REQUEST_FLUSH = 2       # before the data, if there is any
    REQUEST_DISCARD = 3
    REQUEST_BARRIER = 4

cdef struct request_limits:
    # What the device is, and what it has advertised.
    uint64_t capacity       # 512-byte sectors
    uint32_t block_mask     # logical block size in sectors, less one
    uint16_t max_indirect   # segments; 0: not advertised
    uint8_t unit_shift      # the frontend counts in 512 << unit_shift bytes
    bint read_only
    bint discard
    bint barrier

cdef struct request_plan:
    uint8_t kind            # enum request_kind; for INDIRECT that of indirect_op
    uint8_t reply_op        # the operation that the response must carry (INDIRECT: indirect_op)
    uint16_t nr_segments    # data segments; 0: no data
    uint32_t sectors        # of data; DISCARD has its own count


cdef inline bint request_within(uint64_t sector, uint64_t count, const request_limits *limits) noexcept nogil:
    """Whether a range lies on the disk, in whole logical blocks.  No sum or product that could wrap."""
    return (sector <= limits.capacity and count <= limits.capacity - sector
            and not ((sector | count) & limits.block_mask))


cdef inline uint32_t request_sectors(const blkif_request_segment *segments, uint32_t nr) noexcept nogil:
    """Sectors of all segments, or 0: there is none, or one ends before it starts, or outside its page."""
    cdef const blkif_request_segment *end = segments + nr
    cdef uint32_t last, less, seen = 0, total = nr
    while segments != end:
        last, less = segments.last_sect, segments.last_sect - <uint32_t>segments.first_sect
        seen |= last | less             # one that ends before it starts wraps
        total += less
        segments += 1
    return 0 if seen >= XENVBD_PAGE_SIZE // XENVBD_SECTOR_SIZE else total


# Operations that are not plain READ and WRITE.
cdef int16_t request_check_other(const xenvbd_request *request, const request_limits *limits,
                                 request_plan *plan) noexcept nogil


cdef inline int16_t request_check_segments(const xenvbd_request *request, const blkif_request_segment *segments,
                                           const request_limits *limits, request_plan *plan) noexcept nogil:
    """As request_check(), of what an indirect request's pages hold."""
    plan.sectors = request_sectors(segments, plan.nr_segments)
    if plan.sectors and request_within(request.sector, plan.sectors, limits):
        return BLKIF_RSP_OKAY
    return BLKIF_RSP_ERROR


cdef inline int16_t request_check(const xenvbd_request *request, const request_limits *limits,
                                  request_plan *plan) noexcept nogil:
    """BLKIF_RSP_OKAY, or the status to refuse the request with: then only reply_op of the plan holds.

    What an indirect request's pages hold is not seen here: plan.sectors stays 0 until request_check_segments()."""
    if request.operation > BLKIF_OP_WRITE:
        return request_check_other(request, limits, plan)
    plan.kind = plan.reply_op = request.operation
    plan.nr_segments = request.nr_segments
    if request.nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST or request.operation != BLKIF_OP_READ and limits.read_only:
        return BLKIF_RSP_ERROR
    return request_check_segments(request, request.u.seg, limits, plan)


# Pages of segment descriptors that an indirect request of so many segments has.
cdef uint32_t indirect_pages(uint32_t nr_segments) noexcept nogil

# A request of a frontend that counts in units of 512 << shift bytes (feature-large-sector-size as QEMU reads it),
# made to count in 512; what does not fit its field lies beyond any disk, or any page.
cdef void request_scale(xenvbd_request *request, uint8_t shift) noexcept nogil
cdef void segments_scale(blkif_request_segment *segments, uint32_t nr, uint8_t shift) noexcept nogil
