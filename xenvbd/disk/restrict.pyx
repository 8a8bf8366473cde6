"""The restrictions of a ring: io_uring's operations are not system calls, so seccomp does not see them.

A worker that has been taken over could else open files and sockets through its ring.  What stays allowed is what the
engine does, and only on registered files.
"""
from libc.errno cimport ENOSYS, errno
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

from xenvbd.disk.liburing cimport *

# liburing 2.3 has functions for these two and does not export them.
cdef extern from "<unistd.h>" nogil:
    """
    #include <sys/syscall.h>
    #define register_ring(fd, what, argument, count) syscall(SYS_io_uring_register, (fd), (what), (argument), (count))
    """
    long register_ring(int fd, int what, void *argument, unsigned count)

cdef extern from * nogil:
    """
    static const unsigned char operations[] = {
        IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED,
        60 /* READV_FIXED */, 61 /* WRITEV_FIXED */, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD,
        IORING_OP_POLL_REMOVE};
    static const unsigned char registrations[] = {
        IORING_REGISTER_BUFFERS2, IORING_REGISTER_BUFFERS_UPDATE, IORING_UNREGISTER_BUFFERS, IORING_REGISTER_FILES,
        IORING_REGISTER_FILES_UPDATE, IORING_UNREGISTER_FILES, IORING_REGISTER_PROBE, IORING_REGISTER_RING_FDS,
        IORING_UNREGISTER_RING_FDS, IORING_REGISTER_IOWQ_MAX_WORKERS};
    """
    const uint8_t operations[12]
    const uint8_t registrations[10]

cdef enum:
    MOST = 24


cdef inline int outcome(long rc) noexcept nogil:
    return <int>rc if rc >= 0 else -errno


cdef void allow(io_uring_restriction *rule, int kind, int number) noexcept nogil:
    memset(rule, 0, sizeof(rule[0]))
    rule.opcode = <uint16_t>kind
    rule.register_op = <uint8_t>number      # a union with sqe_op and sqe_flags


cdef unsigned allow_operations(io_uring *ring, io_uring_restriction *rules) noexcept nogil:
    """Those of the engine that this kernel has: it refuses to allow what it does not know.  0: it cannot say."""
    cdef io_uring_probe *probe = io_uring_get_probe_ring(ring)
    cdef unsigned i, n = 0
    if probe == NULL:
        return 0
    for i in range(sizeof(operations)):
        if io_uring_opcode_supported(probe, operations[i]):
            allow(&rules[n], IORING_RESTRICTION_SQE_OP, operations[i])
            n += 1
    io_uring_free_probe(probe)
    return n


cdef unsigned allow_registrations(io_uring_restriction *rules) noexcept nogil:
    cdef unsigned i
    for i in range(sizeof(registrations)):
        allow(&rules[i], IORING_RESTRICTION_REGISTER_OP, registrations[i])
    return sizeof(registrations)


cdef int restrict_ring(io_uring *ring, uint8_t sqe_flags) noexcept nogil:
    cdef io_uring_restriction rules[MOST]
    cdef unsigned n = allow_operations(ring, rules)
    if n == 0:
        return -ENOSYS
    n += allow_registrations(rules + n)
    if sqe_flags:
        allow(&rules[n], IORING_RESTRICTION_SQE_FLAGS_REQUIRED, sqe_flags)
        n += 1
    return outcome(register_ring(ring.ring_fd, IORING_REGISTER_RESTRICTIONS, rules, n))


cdef int enable_ring(io_uring *ring) noexcept nogil:
    return outcome(register_ring(ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0))
