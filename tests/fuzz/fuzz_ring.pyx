"""Fuzz target: the bytes of a shared ring page, and of an indirect table, in any of the three ABIs.

The input's first bytes choose ABI, limits and where the backend stands; the rest is what the guest wrote.
"""
from libc.stdint cimport uintptr_t

from xenvbd.request cimport request_check, request_check_segments, request_scale, segments_scale
from xenvbd.ring cimport back_attach, back_final_check, back_pending, back_push, back_take

include "judge.pxi"

cdef extern from * nogil:
    """
    static struct blkif_request_segment table[8 * 512];
    """
    blkif_request_segment table[8 * 512]


cdef void one(back_ring *ring, const request_limits *limits, const uint8_t *rest, size_t size) noexcept nogil:
    """Take a request as dataplane/intake.pyx does, and answer it."""
    cdef xenvbd_request r
    cdef request_plan plan
    cdef int16_t status
    memset(&plan, 0, sizeof(plan))
    back_take(ring, &r)
    if limits.unit_shift:
        request_scale(&r, limits.unit_shift)
    status = request_check(&r, limits, &plan)
    judge(&r, status, &plan, limits)
    if status == 0 and r.operation == INDIRECT:
        memset(table, 0, sizeof(blkif_request_segment) * plan.nr_segments)
        memcpy(table, rest, min(size, sizeof(blkif_request_segment) * plan.nr_segments))
        if limits.unit_shift:
            segments_scale(table, plan.nr_segments, limits.unit_shift)
        status = request_check_segments(&r, table, limits, &plan)
        must(status == 0 or status == -1)
        if status == 0:
            judge_data(&r, table, &plan, limits)
    answer(ring, &r, &plan, status)


cdef int fuzz(const uint8_t *data, size_t size) noexcept nogil:
    cdef request_limits limits
    cdef back_ring ring
    cdef uint32_t index, n = 0
    cdef int abi, posted
    if size < CHOICES + 16:
        return -1
    choose(data, &limits, &abi, &index)
    data += CHOICES
    size -= CHOICES
    memset(shared, 0, PAGE)
    memcpy(shared, data, min(size, <size_t>PAGE))
    back_attach(&ring, shared, 1, abi, index)
    must(ring.nr_ents == 32)
    posted = back_pending(&ring)
    must(posted <= 32)
    while posted > 0 and n < 32:
        one(&ring, &limits, data, size)
        n += 1
        posted = back_pending(&ring)        # what the guest wrote over req_prod meanwhile, or nothing
    back_push(&ring)
    back_final_check(&ring)
    return 0


def entry():
    """The address of the target, for the driver."""
    return <uintptr_t>&fuzz
