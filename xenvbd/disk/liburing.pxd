"""The part of liburing (2.3) that the uring engine uses, named as there."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from xenvbd.disk.disk cimport iovec

cdef extern from "liburing.h" nogil:
    int IORING_SETUP_CLAMP, IORING_SETUP_SUBMIT_ALL, IORING_SETUP_COOP_TASKRUN
    int IORING_SETUP_TASKRUN_FLAG, IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_R_DISABLED
    int IORING_FEAT_EXT_ARG, IORING_FEAT_SUBMIT_STABLE, IORING_FEAT_NODROP
    int IORING_SQ_TASKRUN, IORING_SQ_CQ_OVERFLOW
    int IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV
    int IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC, IORING_OP_FALLOCATE
    int IORING_FSYNC_DATASYNC
    int IOSQE_FIXED_FILE
    int IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_RESTRICTIONS
    int IORING_RESTRICTION_REGISTER_OP, IORING_RESTRICTION_SQE_OP, IORING_RESTRICTION_SQE_FLAGS_REQUIRED

    struct io_uring_sq:
        unsigned *kflags
    struct io_uring_cqe:
        uint64_t user_data
        int res
    struct io_uring_cq:
        unsigned *khead
        unsigned ring_mask
        io_uring_cqe *cqes
    struct io_uring:
        io_uring_sq sq
        io_uring_cq cq
        int ring_fd
        unsigned features
    struct io_uring_params:
        unsigned flags
    struct io_uring_sqe:
        uint8_t flags
        uint16_t buf_index
        uint32_t fsync_flags
        uint32_t rw_flags
        uint64_t user_data
    struct io_uring_probe:
        pass
    struct io_uring_restriction:
        uint16_t opcode
        uint8_t register_op
        uint8_t sqe_op
        uint8_t sqe_flags
    struct __kernel_timespec:
        int64_t tv_sec
        int64_t tv_nsec

    int io_uring_queue_init_params(unsigned entries, io_uring *ring, io_uring_params *params)
    void io_uring_queue_exit(io_uring *ring)
    int io_uring_register_ring_fd(io_uring *ring)
    int io_uring_register_files(io_uring *ring, const int *files, unsigned count)
    int io_uring_register_files_update(io_uring *ring, unsigned at, const int *files, unsigned count)
    int io_uring_unregister_files(io_uring *ring)
    int io_uring_register_buffers_sparse(io_uring *ring, unsigned count)
    int io_uring_register_buffers_update_tag(io_uring *ring, unsigned at, const iovec *buffers, const uint64_t *tags,
                                             unsigned count)
    int io_uring_unregister_buffers(io_uring *ring)
    int io_uring_register_iowq_max_workers(io_uring *ring, unsigned *bounded_unbounded)
    io_uring_probe *io_uring_get_probe_ring(io_uring *ring)
    void io_uring_free_probe(io_uring_probe *probe)
    int io_uring_opcode_supported(const io_uring_probe *probe, int opcode)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    void io_uring_prep_rw(int opcode, io_uring_sqe *sqe, int fd, const void *address, unsigned length,
                          uint64_t offset)
    void io_uring_prep_poll_add(io_uring_sqe *sqe, int fd, unsigned events)
    void io_uring_prep_poll_remove(io_uring_sqe *sqe, uint64_t user_data)
    unsigned io_uring_sq_ready(const io_uring *ring)
    int io_uring_submit_and_get_events(io_uring *ring)
    int io_uring_submit_and_wait_timeout(io_uring *ring, io_uring_cqe **cqe, unsigned count,
                                         __kernel_timespec *timeout, void *sigmask)
    int io_uring_get_events(io_uring *ring)
    unsigned io_uring_cq_ready(const io_uring *ring)
    void io_uring_cq_advance(io_uring *ring, unsigned count)
    unsigned load_word "IO_URING_READ_ONCE" (unsigned word)
