"""What the uring engine takes its rings from."""
from xenvbd.disk.liburing cimport io_uring

cdef enum ring_origin:
    RING_OWN = 0        # just made: to be restricted and enabled
    RING_KEPT = 1       # restricted: to be enabled
    RING_USED = 2       # this thread's from an earlier disk: ready

cdef int ring_take(io_uring *ring, unsigned entries) noexcept nogil
cdef void ring_give(io_uring *ring, bint enabled) noexcept nogil
