"""A queue whose operations are done at once by the submitting thread: the base of memory and null."""
from libc.stdint cimport uint64_t

from xenvbd.disk.disk cimport Disk, DiskQueue, disk_op
from xenvbd.disk.oplist cimport op_list
from xenvbd.disk.watcher cimport watcher


cdef class InlineQueue(DiskQueue):
    cdef Disk disk
    cdef op_list finished
    cdef watcher watched
    cdef uint64_t calls
    cdef void perform(self, disk_op *op) noexcept nogil
