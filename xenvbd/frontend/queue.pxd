"""The frontend's queue with its Python face."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from xenvbd.frontend.core cimport Core


cdef class FrontQueue(Core):
    """See queue.pyx."""
    cdef object disabled                # the error that ended it
    cdef set odd_ids                    # of raw requests, for telling a duplicate from an unknown id
