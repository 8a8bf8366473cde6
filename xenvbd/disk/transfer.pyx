"""How an operation becomes system calls, and what their results mean: the one place for every engine.

The rules: a read that ends early inside the disk is tried once more and then is an error, never zeros, for
zeros would hide a truncated image; a write that ends early goes on; an interrupted call is repeated.  An
operation succeeds only when every byte was transferred, and fails with the first error.
"""
from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport int64_t, uint64_t

from xenvbd.disk.disk cimport DISK_DISCARD, DISK_FLUSH, DISK_FUA, DISK_READ, DISK_WRITE, disk_op, iovec

cdef extern from "sys/uio.h" nogil:
    int RWF_DSYNC
    ssize_t preadv2(int fd, const iovec *iov, int count, long offset, int flags)
    ssize_t pwritev2(int fd, const iovec *iov, int count, long offset, int flags)

cdef extern from "fcntl.h" nogil:
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE
    int fallocate(int fd, int mode, long offset, long length)

cdef extern from "unistd.h" nogil:
    int fdatasync(int fd)
    ssize_t pread(int fd, void *data, size_t length, long offset)
    ssize_t pwrite(int fd, const void *data, size_t length, long offset)

cdef enum:
    ENDED_EARLY = 1         # disk_op.state: a read came back short once
    MOST_REPEATS = 1000     # disk_op.tries: of interrupted calls


cdef void later_attempt(disk_op *op, attempt *call) noexcept nogil:
    """next_attempt() of what has begun, of a flush or of a discard.  Inside an iovec it is only its rest, so
    that the caller's vector can stay as it is."""
    cdef uint64_t skip = op.done
    cdef int i = 0
    call.offset = op.offset + op.done
    call.length = 0 if op.opcode == DISK_FLUSH else op.length - op.done
    if op.opcode == DISK_DISCARD:
        call.length = min(call.length, <uint64_t>DISCARD_PIECE)
    if op.opcode > DISK_WRITE:
        return
    while i < op.nr_iov and skip >= op.iov[i].iov_len:
        skip -= op.iov[i].iov_len
        i += 1
    call.iov = &op.iov[i]
    call.nr_iov = op.nr_iov - i
    if skip > 0:
        call.rest.iov_base = <char *>op.iov[i].iov_base + skip
        call.rest.iov_len = op.iov[i].iov_len - skip
        call.length = call.rest.iov_len
        call.iov = &call.rest
        call.nr_iov = 1


cdef bint account(disk_op *op, uint64_t asked, int64_t got) noexcept nogil:
    """Take the result of a call that asked for so many bytes: a number of bytes, or a negative errno.
    True when the operation is finished, with op.result set; else there is a next attempt."""
    if got == -EINTR or got == -EAGAIN:
        op.tries += 1
        op.result = -EIO if op.tries > MOST_REPEATS else 0
        return op.result != 0
    if got < 0:
        op.result = <int>got
        return True
    op.done += <uint64_t>got
    if op.opcode == DISK_FLUSH or op.done >= op.length:
        op.result = 0
        return True
    if <uint64_t>got == asked:
        return False
    if got == 0 or op.opcode == DISK_READ and op.state & ENDED_EARLY:
        op.result = -EIO
        return True
    op.state |= ENDED_EARLY
    return False


cdef int64_t call_kernel(int fd, disk_op *op, attempt *call) noexcept nogil:
    """One system call of an operation: bytes done, or a negative errno."""
    cdef int64_t got
    # A single piece without its vector, which the kernel would have to fetch: a tenth of a cached 4 KiB transfer.
    if op.opcode == DISK_READ and call.nr_iov == 1:
        got = pread(fd, call.iov.iov_base, call.length, <long>call.offset)
    elif op.opcode == DISK_WRITE and call.nr_iov == 1 and not op.flags & DISK_FUA:
        got = pwrite(fd, call.iov.iov_base, call.length, <long>call.offset)
    elif op.opcode == DISK_READ:
        got = preadv2(fd, call.iov, call.nr_iov, <long>call.offset, 0)
    elif op.opcode == DISK_WRITE:
        got = pwritev2(fd, call.iov, call.nr_iov, <long>call.offset, RWF_DSYNC if op.flags & DISK_FUA else 0)
    elif op.opcode == DISK_FLUSH:
        got = fdatasync(fd)
    else:
        got = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <long>call.offset, <long>call.length)
        got = <int64_t>call.length if got == 0 else got
    return -errno if got < 0 else got


cdef int perform(int fd, disk_op *op) noexcept nogil:
    """Do all of an admitted operation in the calling thread.  The number of system calls it took."""
    cdef attempt call
    cdef int calls = 1
    next_attempt(op, &call)
    while not account(op, call.length, call_kernel(fd, op, &call)):
        next_attempt(op, &call)
        calls += 1
    return calls
