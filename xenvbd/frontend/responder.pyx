"""A backend that answers every request OKAY at once, in the frontend's thread: what is left is the frontend's own cost.

With it the load generator measures itself, so that a bench can say that the frontend is not the bottleneck.
"""
from libc.stdint cimport uint32_t

from xenvbd.frontend.core cimport Peer
from xenvbd.frontend.queue cimport FrontQueue
from xenvbd.ring cimport (
    BLKIF_OP_INDIRECT,
    BLKIF_RSP_OKAY,
    back_attach,
    back_final_check,
    back_pending,
    back_push,
    back_respond,
    back_ring,
    back_take,
    xenvbd_request,
)

from xenvbd.ring import ABIS


cdef class Responder(Peer):
    """Responder(queue): answers the requests of a FrontQueue, moving no data; queue.attach(it) puts it to work."""
    cdef back_ring ring
    cdef FrontQueue queue

    def __cinit__(self, FrontQueue queue, uint32_t index=0):
        self.queue = queue      # keeps the ring's pages
        back_attach(&self.ring, queue.ring_pages.address, queue.ring_pages.count, ABIS[queue.abi], index)

    cdef int serve(self) noexcept nogil:
        cdef int n = back_pending(&self.ring)
        cdef int _i
        for _i in range(n):
            self.answer()
        if n > 0:
            back_push(&self.ring)
        back_final_check(&self.ring)
        return n if n < 0 else 0

    cdef void answer(self) noexcept nogil:
        cdef xenvbd_request r
        back_take(&self.ring, &r)
        back_respond(&self.ring, r.id, r.sub if r.operation == BLKIF_OP_INDIRECT else r.operation, BLKIF_RSP_OKAY)
