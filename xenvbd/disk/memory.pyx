"""The memory engine: a disk in this process's private memory (mem:SIZE), empty at each start, in no core dump."""
import os

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from xenvbd.disk.disk cimport DISK_DISCARD, DISK_READ, DISK_WRITE, Disk, DiskQueue, disk_op
from xenvbd.disk.inline cimport InlineQueue

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTDUMP, MADV_DONTNEED
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)

cdef enum:
    PAGE = 4096


cdef class MemoryDisk(Disk):
    """size bytes of zeros; a page takes memory when it is first written.  Raises OSError."""
    cdef char *base

    def __cinit__(self, str target, uint64_t size, *, bint read_only=False, unsigned logical_block_size=512,
                  unsigned physical_block_size=PAGE, bint discard=True):
        self.target, self.engine, self.size, self.read_only = target, "memory", size, read_only
        self.logical_block_size, self.physical_block_size = logical_block_size, physical_block_size
        self.alignment = 1
        self.can_discard, self.discard_granularity = discard and not read_only, PAGE
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise OSError(errno, os.strerror(errno), target)
        self.base = <char *>base
        madvise(base, size, MADV_DONTDUMP)          # a guest's data is in no core dump

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    cpdef DiskQueue queue(self, unsigned depth):
        return MemoryQueue(self)

    cpdef close(self):
        """Nothing to do: the memory goes with the object, which every queue of it keeps."""


cdef class MemoryQueue(InlineQueue):
    """Copies; discard gives whole pages back to the kernel."""

    cdef void perform(self, disk_op *op) noexcept nogil:
        cdef char *where = (<MemoryDisk>self.disk).base + op.offset
        cdef int i
        if op.opcode == DISK_DISCARD:
            discard(where, op.length)
        elif op.opcode == DISK_READ:
            for i in range(op.nr_iov):
                memcpy(op.iov[i].iov_base, where, op.iov[i].iov_len)
                where += op.iov[i].iov_len
        elif op.opcode == DISK_WRITE:
            for i in range(op.nr_iov):
                memcpy(where, op.iov[i].iov_base, op.iov[i].iov_len)
                where += op.iov[i].iov_len


cdef void discard(char *start, uint64_t length) noexcept nogil:
    """Zero a range of private memory: whole pages by dropping them, the edges by hand."""
    cdef char *end = start + length
    cdef char *first = <char *>((<size_t>start + PAGE - 1) & ~(<size_t>PAGE - 1))
    cdef char *last = <char *>(<size_t>end & ~(<size_t>PAGE - 1))
    if first >= last or madvise(first, last - first, MADV_DONTNEED) != 0:
        memset(start, 0, length)
        return
    memset(start, 0, first - start)
    memset(last, 0, end - last)
