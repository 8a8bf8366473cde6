"""A disk that is an open file or block device: what the uring and the threads engine have in common."""
from libc.stdint cimport int32_t

from xenvbd.disk.disk cimport Disk


cdef class FileDisk(Disk):
    cdef readonly int fd
    cdef readonly int guard     # a fence file's descriptor (fencefile.py), or -1
    cdef bint owned
    cdef readonly bint direct
    cdef readonly bint is_block
    cdef int32_t attached       # queues between attach() and detach()
    cdef give_back(self)
