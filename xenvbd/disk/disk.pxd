"""What every disk engine and filter is: a Disk that hands out one DiskQueue to each I/O thread."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef enum disk_opcode:
    DISK_READ = 0       # the same order as enum xenvbd_stat_op
    DISK_WRITE = 1
    DISK_FLUSH = 2
    DISK_DISCARD = 3

cdef enum:
    DISK_PAGES = 2047       # that an engine can have registered beside the buffer

cdef enum disk_flags:
    DISK_FUA = 1        # a write that is on stable storage when it completes

cdef struct disk_op:
    # One operation, owned by the caller until submit() and again from reap() on.
    uint8_t opcode
    uint8_t flags
    uint16_t nr_iov
    int result              # filled by the engine: 0, and all of length was done, or a negative errno
    uint64_t offset         # bytes; READ, WRITE, DISCARD
    uint64_t length         # bytes; the sum of the iovecs for READ and WRITE
    iovec *iov              # not changed by the engine
    void *owner             # the caller's
    disk_op *next           # in a chain of them, which NULL ends
    uint16_t buffer         # of one iovec: the registered page that it lies in, or 0
    # the engine's own, until reap()
    uint64_t done
    uint32_t tries
    uint32_t state


cdef class DiskQueue:
    """One I/O thread's way to a disk.  All but __cinit__ is called from that thread, without the GIL."""
    cdef int attach(self) noexcept nogil
    cdef void detach(self) noexcept nogil
    cdef int register_buffer(self, void *address, size_t length) noexcept nogil
    cdef int register_page(self, uint32_t number, void *address) noexcept nogil
    cdef int watch(self, int fd, uint32_t tag) noexcept nogil
    cdef void submit(self, disk_op *chain) noexcept nogil
    cdef int enter(self) noexcept nogil
    cdef disk_op *reap(self) noexcept nogil
    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil
    cdef uint64_t system_calls(self) noexcept nogil


cdef class Disk:
    """An open target.  size is in bytes; block sizes are powers of two; alignment is what offset, length and
    memory of an operation must be multiples of for the engine (512 or more with O_DIRECT, else 1); discard_unit, what
    those of a discard must be (512 or more)."""
    cdef readonly str target
    cdef readonly str engine
    cdef readonly uint64_t size
    cdef readonly bint read_only
    cdef readonly uint32_t logical_block_size
    cdef readonly uint32_t physical_block_size
    cdef readonly uint32_t alignment
    cdef readonly bint can_discard
    cdef readonly uint32_t discard_unit
    cdef readonly uint32_t discard_granularity
    cdef readonly uint32_t discard_alignment
    cpdef DiskQueue queue(self, unsigned depth)
    cpdef close(self)
