"""Which direction of a file io_uring could only punt to its worker threads, and is better done inline.

A file that does not know RWF_NOWAIT costs io_uring a thread switch for each request: measured, tmpfs reads
then reach 0.6 of plain preadv(), buffered writes to ext4 0.64.  Both are copies in memory, so they are done
in place.  Only file systems where that was measured are listed: elsewhere (FUSE, NFS) a call may wait for
long, and a worker thread is the right place for it.
"""
from libc.errno cimport EOPNOTSUPP, errno

from xenvbd.disk.disk cimport iovec

cdef extern from "sys/uio.h" nogil:
    int RWF_NOWAIT
    ssize_t preadv2(int fd, const iovec *iov, int count, long offset, int flags)
    ssize_t pwritev2(int fd, const iovec *iov, int count, long offset, int flags)

cdef extern from "sys/mman.h" nogil:
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)

cdef extern from "sys/vfs.h" nogil:
    struct statfs_answer "statfs":
        long f_type
    int fstatfs(int fd, statfs_answer *answer)

cdef extern from "linux/magic.h" nogil:
    long TMPFS_MAGIC, RAMFS_MAGIC, EXT4_SUPER_MAGIC

cdef enum:
    BLOCK = 4096


cdef long file_system(int fd, bint is_block) noexcept nogil:
    """The magic number of a regular file's file system; 0 for a device, whose node's says nothing."""
    cdef statfs_answer answer
    return 0 if is_block or fstatfs(fd, &answer) != 0 else answer.f_type


cdef bint refuses_nowait(int fd, bint writing) noexcept nogil:
    """Ask with memory that cannot be read when writing, so that no byte of the image can change."""
    cdef iovec block
    cdef ssize_t got
    cdef bint refused
    block.iov_base = mmap(NULL, BLOCK, PROT_NONE if writing else PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    block.iov_len = BLOCK
    if block.iov_base == MAP_FAILED:
        return False
    if writing:
        got = pwritev2(fd, &block, 1, 0, RWF_NOWAIT)
    else:
        got = preadv2(fd, &block, 1, 0, RWF_NOWAIT)
    refused = got < 0 and errno == EOPNOTSUPP
    munmap(block.iov_base, BLOCK)
    return refused


cdef bint inline_reads(int fd, bint is_block) noexcept nogil:
    """Whether reads are copies from memory that io_uring cannot do in place."""
    return file_system(fd, is_block) in (TMPFS_MAGIC, RAMFS_MAGIC) and refuses_nowait(fd, False)


cdef bint inline_writes(int fd, bint is_block, bint direct) noexcept nogil:
    """Whether writes are copies to memory that io_uring cannot do in place."""
    cdef long kind = file_system(fd, is_block)
    if kind in (TMPFS_MAGIC, RAMFS_MAGIC) or (kind == EXT4_SUPER_MAGIC and not direct):
        return refuses_nowait(fd, True)
    return False
