"""Validation of a request's private copy (ring.pxd).  Nothing here reads memory that a guest can write.

The status of a refusal follows blkif.h: EOPNOTSUPP for what was not advertised or is not known, ERROR for a
request that breaks the rules.
"""
from xenvbd.ring cimport (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    XENVBD_SECTOR_SIZE,
    XENVBD_SEGMENTS_PER_INDIRECT_PAGE,
    request_from_python,
)

KINDS = ("read", "write", "flush", "discard", "barrier")


cdef int16_t check_data(const xenvbd_request *request, const request_limits *limits,
                        request_plan *plan) noexcept nogil:
    """The segments that stand in the request itself."""
    if request.nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST:
        return BLKIF_RSP_ERROR
    plan.nr_segments = request.nr_segments
    return request_check_segments(request, request.u.seg, limits, plan)


cdef int16_t check_flush(const xenvbd_request *request, const request_limits *limits,
                         request_plan *plan) noexcept nogil:
    """A flush or barrier: without data its sector means nothing (Linux leaves there what it likes)."""
    if plan.kind == REQUEST_BARRIER and not limits.barrier:
        return BLKIF_RSP_EOPNOTSUPP
    return check_data(request, limits, plan) if request.nr_segments else BLKIF_RSP_OKAY


cdef int16_t check_discard(const xenvbd_request *request, const request_limits *limits) noexcept nogil:
    """blkif.h knows one flag, secure, which is never offered, and zero.  Others may ask for more than a discard does;
    blkback and QEMU do a plain one all the same, and say that it is what was asked for."""
    if not limits.discard or request.sub:
        return BLKIF_RSP_EOPNOTSUPP
    return BLKIF_RSP_OKAY if request_within(request.sector, request.u.nr_sectors, limits) else BLKIF_RSP_ERROR


cdef int16_t check_indirect(const xenvbd_request *request, const request_limits *limits,
                            request_plan *plan) noexcept nogil:
    if request.nr_segments == 0 or request.nr_segments > limits.max_indirect \
            or indirect_pages(request.nr_segments) > BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST:
        return BLKIF_RSP_ERROR
    plan.nr_segments = request.nr_segments
    return BLKIF_RSP_OKAY


cdef bint writes(const xenvbd_request *request, const request_plan *plan) noexcept nogil:
    """Whether the request would change the disk (CVE-2013-2140: that is more than WRITE)."""
    return plan.kind != REQUEST_READ and (plan.kind != REQUEST_FLUSH or request.nr_segments != 0)


cdef inline int kind_of(uint8_t operation) noexcept nogil:
    """The kind of request, or -1: no such operation."""
    if operation == BLKIF_OP_READ:
        return REQUEST_READ
    if operation == BLKIF_OP_WRITE:
        return REQUEST_WRITE
    if operation == BLKIF_OP_FLUSH_DISKCACHE:
        return REQUEST_FLUSH
    if operation == BLKIF_OP_DISCARD:
        return REQUEST_DISCARD
    if operation == BLKIF_OP_WRITE_BARRIER:
        return REQUEST_BARRIER
    return -1


cdef int16_t request_check_other(const xenvbd_request *request, const request_limits *limits,
                                 request_plan *plan) noexcept nogil:
    cdef bint indirect = request.operation == BLKIF_OP_INDIRECT
    cdef int kind
    plan.reply_op = request.sub if indirect else request.operation
    plan.nr_segments, plan.sectors = 0, 0
    kind = kind_of(plan.reply_op)
    if kind < 0 and not indirect or indirect and limits.max_indirect == 0:
        return BLKIF_RSP_EOPNOTSUPP
    if indirect and kind != REQUEST_READ and kind != REQUEST_WRITE:
        return BLKIF_RSP_ERROR
    plan.kind = kind
    if limits.read_only and writes(request, plan):
        return BLKIF_RSP_ERROR
    if indirect:
        return check_indirect(request, limits, plan)
    if kind == REQUEST_DISCARD:
        return check_discard(request, limits)
    return check_flush(request, limits, plan)


cdef inline uint64_t scaled(uint64_t count, uint8_t shift) noexcept nogil:
    return count << shift if count <= <uint64_t>-1 >> shift else <uint64_t>-1


cdef void segments_scale(blkif_request_segment *segments, uint32_t nr, uint8_t shift) noexcept nogil:
    cdef uint32_t i
    for i in range(nr):
        segments[i].first_sect = <uint8_t>min(<uint32_t>segments[i].first_sect << shift, <uint32_t>255)
        segments[i].last_sect = <uint8_t>min(((<uint32_t>segments[i].last_sect + 1) << shift) - 1, <uint32_t>255)


cdef void request_scale(xenvbd_request *request, uint8_t shift) noexcept nogil:
    request.sector = scaled(request.sector, shift)
    if request.operation == BLKIF_OP_DISCARD:
        request.u.nr_sectors = scaled(request.u.nr_sectors, shift)
    elif request.operation != BLKIF_OP_INDIRECT:
        segments_scale(request.u.seg, min(request.nr_segments, <uint32_t>BLKIF_MAX_SEGMENTS_PER_REQUEST), shift)


cdef uint32_t indirect_pages(uint32_t nr_segments) noexcept nogil:
    return (nr_segments + XENVBD_SEGMENTS_PER_INDIRECT_PAGE - 1) // XENVBD_SEGMENTS_PER_INDIRECT_PAGE


def check(request, *, uint64_t capacity, bint read_only=False, bint discard=True, bint barrier=False,
          uint16_t max_indirect=256, uint32_t logical_block_size=512, sector_unit=512, segments=None):
    """Judge a ring.Request as the data plane does; for an indirect one, segments is what its pages hold.

    capacity in 512-byte sectors, whatever sector_unit the request counts in.  Returns (status, reply_op, kind,
    sectors): a BLKIF_RSP_* value, the operation the response carries, and for a good request its kind ("read",
    "write", "flush", "discard", "barrier") and sectors of data (else None, 0).
    """
    cdef xenvbd_request r
    cdef request_plan plan
    cdef blkif_request_segment list_[4096]
    cdef request_limits limits = request_limits(
        capacity=capacity, block_mask=logical_block_size // XENVBD_SECTOR_SIZE - 1, max_indirect=max_indirect,
        unit_shift=sector_unit.bit_length() - 10, read_only=read_only, discard=discard, barrier=barrier)
    request_from_python(&r, request)
    request_scale(&r, limits.unit_shift)
    cdef int16_t status = request_check(&r, &limits, &plan)
    if status == BLKIF_RSP_OKAY and request.operation == BLKIF_OP_INDIRECT:
        for i in range(plan.nr_segments):
            list_[i].gref, list_[i].first_sect, list_[i].last_sect = segments[i]
        segments_scale(list_, plan.nr_segments, limits.unit_shift)
        status = request_check_segments(&r, list_, &limits, &plan)
    if status != BLKIF_RSP_OKAY:
        return status, plan.reply_op, None, 0
    return status, plan.reply_op, KINDS[plan.kind], plan.sectors
