"""The uring engine: an io_uring a queue, with the file and the queue's memory registered.

SQEs are gathered by submit() and go to the kernel with enter() or sleep(), one system call for all of them.
A watched descriptor is a one-shot poll that the next sleep() arms again, in the same system call: that makes
it level triggered, which a multishot poll is not, and no event is posted while nobody sleeps.
"""
cimport cython
from libc.errno cimport EAGAIN, EBUSY, EINTR, EINVAL, EMFILE, EOPNOTSUPP, ETIME
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from xenvbd.disk.atomics cimport add32
from xenvbd.disk.disk cimport (DISK_DISCARD, DISK_FLUSH, DISK_FUA, DISK_PAGES, DISK_READ, DISK_WRITE, DiskQueue,
                               disk_op, iovec)
from xenvbd.disk.filedisk cimport FileDisk
from xenvbd.disk.liburing cimport *
from xenvbd.disk.nowait cimport inline_reads, inline_writes
from xenvbd.disk.oplist cimport op_list, ops_pop, ops_push, ops_take
from xenvbd.disk.restrict cimport enable_ring, restrict_ring
from xenvbd.disk.rings cimport RING_OWN, RING_USED, ring_give, ring_take
from xenvbd.disk.transfer cimport DISCARDS_IN_FLIGHT, account, admit, attempt, next_attempt, perform

cdef extern from "poll.h" nogil:
    int POLLIN

cdef extern from "sys/uio.h" nogil:
    int RWF_DSYNC

cdef extern from "fcntl.h" nogil:
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

cdef enum:
    TAGS = 32
    FILES = TAGS + 2        # that are registered: the disk, what is watched, and the fence file
    PAGE = 4096
    OP_READV_FIXED = 60     # Linux 6.15; liburing 2.3 has no names for them
    OP_WRITEV_FIXED = 61
    POLL = 1                # user_data: a poll, its tag above; an operation's address has a 0 here
    POLL_REMOVAL = 3
    TAG_SHIFT = 2
    BOUNDED_WORKERS = 8     # 4 discards, and room for a flush and for writes into holes beside them
    UNBOUNDED_WORKERS = 2
    BILLION = 1000000000


cdef class UringDisk(FileDisk):
    """An image or a block device."""
    cdef readonly bint inline_reads
    cdef readonly bint inline_writes

    def __cinit__(self, *args, **options):
        self.engine = "uring"
        self.inline_reads = inline_reads(self.fd, self.is_block)
        self.inline_writes = not self.read_only and inline_writes(self.fd, self.is_block, self.direct)

    cpdef DiskQueue queue(self, unsigned depth):
        return UringQueue(self, depth)


@cython.final               # its own calls are direct ones
@cython.no_gc_clear         # detach() needs the disk, whoever calls it last
cdef class UringQueue(DiskQueue):
    """A ring with room for depth operations and one poll a tag, so that neither queue of it can overflow."""
    cdef UringDisk disk
    cdef unsigned depth
    cdef io_uring ring
    cdef bint attached
    cdef bint enabled
    cdef int origin             # of the ring: ring_origin
    cdef int file               # what SQEs name: 0, the registered one, or the descriptor
    cdef int file_flag
    cdef bint table             # of registered memory: there is one
    cdef char *buffer           # registered memory, or NULL
    cdef size_t buffer_size
    cdef bint probed
    cdef bint vectors_fixed     # READV_FIXED and WRITEV_FIXED work: Linux 6.15 and later
    cdef op_list finished
    cdef op_list inlined        # to be done by this thread, in enter()
    cdef op_list discards       # waiting until fewer are in flight
    cdef int discarding
    cdef int watched[TAGS]      # what SQEs name, as file
    cdef uint32_t watching      # tags in use
    cdef uint32_t armed         # tags with a poll in the kernel
    cdef uint32_t fired         # tags whose poll has ended
    cdef uint64_t calls

    def __cinit__(self, UringDisk disk not None, unsigned depth):
        self.disk = disk
        self.depth = depth

    # Getting ready.

    cdef int attach(self) noexcept nogil:
        cdef int rc = ring_take(&self.ring, self.depth + TAGS + 1)
        if rc < 0:
            return rc
        self.origin, self.enabled = rc, rc == RING_USED
        self.attached = True
        add32(&self.disk.attached, 1)
        self.register_files()
        rc = self.enable()
        if rc < 0:
            (<DiskQueue>self).detach()
        return rc

    cdef int enable(self) noexcept nogil:
        """Let the ring begin, with what it may be asked for.  One that was kept asks for registered files."""
        cdef int rc
        cdef unsigned workers[2]
        if self.origin == RING_OWN:
            restrict_ring(&self.ring, <uint8_t>self.file_flag)
        elif self.file_flag == 0:
            return -EMFILE
        if self.origin == RING_USED:
            return 0
        rc = enable_ring(&self.ring)
        if rc < 0:
            return rc
        self.enabled = True
        workers[0], workers[1] = BOUNDED_WORKERS, UNBOUNDED_WORKERS
        io_uring_register_ring_fd(&self.ring)           # these two only cost speed when they fail
        io_uring_register_iowq_max_workers(&self.ring, workers)
        return 0

    cdef void register_files(self) noexcept nogil:
        """The disk, room for what is watched, and the fence file, which is held until all that was begun has ended;
        without, SQEs name descriptors, and that only costs speed."""
        cdef int files[FILES]
        cdef int tag
        files[0] = self.disk.fd
        for tag in range(TAGS):
            files[tag + 1] = -1
        files[FILES - 1] = self.disk.guard
        self.file, self.file_flag = self.disk.fd, 0
        if io_uring_register_files(&self.ring, files, FILES) == 0:
            self.file, self.file_flag = 0, IOSQE_FIXED_FILE

    cdef void detach(self) noexcept nogil:
        if not self.attached:
            return
        self.watching = 0       # the ring's end shall leave no reference to a watched descriptor behind
        self.take_polls_back()
        # By hand, for the ring itself goes in the background, and would keep the image's lock meanwhile.
        if self.table:
            io_uring_unregister_buffers(&self.ring)
            self.table, self.buffer, self.buffer_size = False, NULL, 0
        if self.file_flag:
            io_uring_unregister_files(&self.ring)
        if self.origin == RING_OWN:
            io_uring_queue_exit(&self.ring)
        else:
            ring_give(&self.ring, self.enabled)
        self.attached = False
        add32(&self.disk.attached, -1)

    cdef int update(self, uint32_t number, void *address, size_t length) noexcept nogil:
        """Put memory into the table of what is registered, or NULL and 0, which take out what is there.

        Linux 6.1 lets go of it only when each request has ended that named anything registered and was begun before:
        also a poll of a registered file, which may never end.  (To unregister buffers there waits for that.)"""
        cdef iovec memory
        cdef int rc
        if address == NULL:
            self.take_polls_back()
        if not self.table:
            rc = io_uring_register_buffers_sparse(&self.ring, DISK_PAGES + 1)
            if rc < 0:
                return rc
            self.table = True
        self.look_for_vectors()
        memory.iov_base, memory.iov_len = address, length
        rc = io_uring_register_buffers_update_tag(&self.ring, number, &memory, NULL, 1)
        return min(rc, 0)

    cdef void look_for_vectors(self) noexcept nogil:
        cdef io_uring_probe *probe
        if self.probed:
            return
        self.probed = True
        probe = io_uring_get_probe_ring(&self.ring)
        if probe != NULL:
            self.vectors_fixed = (io_uring_opcode_supported(probe, OP_READV_FIXED)
                                  and io_uring_opcode_supported(probe, OP_WRITEV_FIXED))
            io_uring_free_probe(probe)

    cdef int register_buffer(self, void *address, size_t length) noexcept nogil:
        cdef int rc = 0
        if address != NULL or self.buffer != NULL:
            rc = self.update(0, address, length)
        if rc == 0:
            self.buffer, self.buffer_size = <char *>address, length
        return rc

    cdef int register_page(self, uint32_t number, void *address) noexcept nogil:
        if number == 0 or number > DISK_PAGES:
            return -EINVAL
        if address == NULL:
            return self.update(number, NULL, 0) if self.table else 0
        # What is done in place needs no registered memory.
        if self.disk.inline_reads and (self.disk.inline_writes or self.disk.read_only):
            return -EOPNOTSUPP
        # Until Linux 6.13 memory that is taken out stays pinned while any request that began before is in flight.  A
        # granted page that is unmapped meanwhile is lost to the guest in a PV dom0: gntdev gives it back later, with an
        # address that is no longer mapped, and Xen refuses.
        self.look_for_vectors()
        if not self.vectors_fixed:
            return -EOPNOTSUPP
        return self.update(number, address, PAGE)

    # Operations.

    cdef void submit(self, disk_op *chain) noexcept nogil:
        cdef disk_op *op
        while chain != NULL:
            op, chain = chain, chain.next
            if not admit(self.disk, op):
                ops_push(&self.finished, op)
            elif op.opcode == DISK_DISCARD:
                ops_push(&self.discards, op)
                self.start_discards()
            elif self.is_inlined(op):
                ops_push(&self.inlined, op)
            else:
                self.prepare(op)

    cdef bint is_inlined(self, disk_op *op) noexcept nogil:
        if op.opcode == DISK_READ:
            return self.disk.inline_reads
        # A write that must reach the disk waits for it, so it is not one to do inline.
        return op.opcode == DISK_WRITE and self.disk.inline_writes and not op.flags & DISK_FUA

    cdef void start_discards(self) noexcept nogil:
        while self.discarding < DISCARDS_IN_FLIGHT and self.discards.first != NULL:
            self.discarding += 1
            self.prepare(ops_pop(&self.discards))

    cdef void prepare(self, disk_op *op) noexcept nogil:
        """The SQE of an operation's next attempt.  There is always one free: see the class."""
        if op.done or op.opcode > DISK_WRITE:
            self.prepare_other(op)
        else:
            self.prepare_transfer(op, op.iov, op.nr_iov, op.length, op.offset)

    cdef void prepare_other(self, disk_op *op) noexcept nogil:
        """That of a transfer's rest, a flush or a discard's next piece."""
        cdef io_uring_sqe *sqe
        cdef attempt call
        next_attempt(op, &call)
        if op.opcode <= DISK_WRITE:
            self.prepare_transfer(op, call.iov, call.nr_iov, call.length, call.offset)
            return
        sqe = io_uring_get_sqe(&self.ring)
        if op.opcode == DISK_FLUSH:
            io_uring_prep_rw(IORING_OP_FSYNC, sqe, self.file, NULL, 0, 0)
            sqe.fsync_flags = IORING_FSYNC_DATASYNC
        else:
            # fallocate's mode is in sqe.len and its length in sqe.addr
            io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, self.file, <void *>call.length,
                             FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, call.offset)
        sqe.flags |= self.file_flag
        sqe.user_data = <uint64_t>op

    cdef void prepare_transfer(self, disk_op *op, iovec *iov, int nr_iov, uint64_t length,
                               uint64_t offset) noexcept nogil:
        """The cheapest opcode for these iovecs: registered memory and a single one, if they are.
        A single one goes by value, so it may be on the caller's stack."""
        cdef io_uring_sqe *sqe = io_uring_get_sqe(&self.ring)
        cdef bint writing = op.opcode == DISK_WRITE
        cdef bint fixed = op.buffer != 0 or self.is_registered(iov, nr_iov)
        cdef int opcode
        if nr_iov == 1:
            opcode = (IORING_OP_WRITE_FIXED if fixed else IORING_OP_WRITE) if writing else (
                IORING_OP_READ_FIXED if fixed else IORING_OP_READ)
            io_uring_prep_rw(opcode, sqe, self.file, iov.iov_base, <unsigned>length, offset)
            sqe.buf_index = op.buffer
        else:
            fixed = fixed and self.vectors_fixed
            opcode = (OP_WRITEV_FIXED if fixed else IORING_OP_WRITEV) if writing else (
                OP_READV_FIXED if fixed else IORING_OP_READV)
            io_uring_prep_rw(opcode, sqe, self.file, iov, <unsigned>nr_iov, offset)
        if writing and op.flags & DISK_FUA:
            sqe.rw_flags = RWF_DSYNC
        sqe.flags |= self.file_flag
        sqe.user_data = <uint64_t>op

    cdef bint is_registered(self, iovec *iov, int nr_iov) noexcept nogil:
        """Whether all of the iovecs is in the registered buffer (of no bytes, if there is none)."""
        cdef size_t start
        cdef int i
        for i in range(nr_iov):
            start = <size_t>iov[i].iov_base - <size_t>self.buffer
            if start >= self.buffer_size or iov[i].iov_len > self.buffer_size - start:
                return False
        return True

    # Completions.

    cdef void collect(self) noexcept nogil:
        """Take all CQEs: operations to the finished ones or on to their next attempt, polls to fired."""
        cdef unsigned count = io_uring_cq_ready(&self.ring)
        cdef unsigned head = self.ring.cq.khead[0]
        cdef unsigned i
        for i in range(count):
            self.take(&self.ring.cq.cqes[(head + i) & self.ring.cq.ring_mask])
        io_uring_cq_advance(&self.ring, count)

    cdef void take(self, io_uring_cqe *cqe) noexcept nogil:
        cdef disk_op *op = <disk_op *>cqe.user_data
        if cqe.user_data & POLL:
            self.take_poll(cqe.user_data)
        elif op.opcode <= DISK_WRITE and cqe.res == <int64_t>op.length and op.done == 0:
            ops_push(&self.finished, op)    # all at once
        else:
            self.take_other(op, cqe.res)

    cdef void take_other(self, disk_op *op, int64_t got) noexcept nogil:
        cdef attempt call
        next_attempt(op, &call)             # what was asked for
        if op.opcode == DISK_DISCARD and got == 0:
            got = <int64_t>call.length
        if not account(op, call.length, got):
            self.prepare(op)
            return
        ops_push(&self.finished, op)
        if op.opcode == DISK_DISCARD:
            self.discarding -= 1
            self.start_discards()

    cdef void take_poll(self, uint64_t user_data) noexcept nogil:
        cdef uint32_t bit = <uint32_t>1 << (user_data >> TAG_SHIFT)
        if user_data & POLL_REMOVAL == POLL:
            self.armed &= ~bit
            self.fired |= bit

    cdef bint has_task_work(self) noexcept nogil:
        """Completions wait in the kernel for this thread to come and get them."""
        return load_word(self.ring.sq.kflags[0]) & <unsigned>(IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW) != 0

    cdef disk_op *reap(self) noexcept nogil:
        self.collect()
        if self.finished.first == NULL and self.has_task_work():
            self.calls += 1
            io_uring_get_events(&self.ring)
            self.collect()
        return ops_take(&self.finished)

    # System calls.

    cdef void do_inlined(self) noexcept nogil:
        cdef disk_op *op = ops_pop(&self.inlined)
        while op != NULL:
            self.calls += <uint64_t>perform(self.disk.fd, op)
            ops_push(&self.finished, op)
            op = ops_pop(&self.inlined)

    cdef int enter(self) noexcept nogil:
        self.do_inlined()
        if io_uring_sq_ready(&self.ring) == 0:
            return 0
        self.calls += 1
        return outcome(io_uring_submit_and_get_events(&self.ring))

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        cdef int rc
        self.do_inlined()
        self.collect()
        self.arm()
        self.fired = 0          # what fired before may have been read since; its poll is armed again
        if timeout_ns == 0 or self.finished.first != NULL:
            rc = self.look()
        else:
            rc = self.wait(timeout_ns)
        self.collect()
        ready[0] = self.fired
        return rc

    cdef int look(self) noexcept nogil:
        if io_uring_sq_ready(&self.ring) == 0 and not self.has_task_work():
            return 0
        self.calls += 1
        return outcome(io_uring_submit_and_get_events(&self.ring))

    cdef int wait(self, int64_t timeout_ns) noexcept nogil:
        """Submit and wait for a CQE in one system call."""
        cdef __kernel_timespec span
        cdef io_uring_cqe *cqe = NULL
        span.tv_sec, span.tv_nsec = timeout_ns // BILLION, timeout_ns % BILLION
        self.calls += 1
        return outcome(io_uring_submit_and_wait_timeout(&self.ring, &cqe, 1,
                                                        NULL if timeout_ns < 0 else &span, NULL))

    cdef uint64_t system_calls(self) noexcept nogil:
        return self.calls

    # Watched descriptors.

    cdef int watch(self, int fd, uint32_t tag) noexcept nogil:
        cdef int rc
        if tag >= TAGS or fd < 0:
            return -EINVAL
        self.watched[tag] = fd
        if self.file_flag:
            rc = io_uring_register_files_update(&self.ring, tag + 1, &fd, 1)
            if rc < 0:
                return rc
            self.watched[tag] = <int>tag + 1
        self.watching |= <uint32_t>1 << tag
        return 0

    cdef void arm(self) noexcept nogil:
        """Poll each watched descriptor that no poll is armed for."""
        cdef uint32_t missing = self.watching & ~self.armed
        cdef io_uring_sqe *sqe
        cdef int tag = 0
        while missing:
            if missing & 1:
                sqe = io_uring_get_sqe(&self.ring)
                io_uring_prep_poll_add(sqe, self.watched[tag], POLLIN)
                sqe.flags |= self.file_flag
                sqe.user_data = <uint64_t>tag << TAG_SHIFT | POLL
                self.armed |= <uint32_t>1 << tag
            missing >>= 1
            tag += 1

    cdef void take_polls_back(self) noexcept nogil:
        """The next sleep() arms them again."""
        cdef io_uring_sqe *sqe
        cdef uint32_t last = self.armed
        cdef int tag
        for tag in range(TAGS):
            if last >> tag & 1:
                sqe = io_uring_get_sqe(&self.ring)
                io_uring_prep_poll_remove(sqe, <uint64_t>tag << TAG_SHIFT | POLL)
                sqe.flags |= self.file_flag         # without meaning here; the restrictions ask for it
                sqe.user_data = POLL_REMOVAL
        while self.armed and self.wait(BILLION) == 0:
            self.collect()


cdef int outcome(int rc) noexcept nogil:
    """Not errors: a timeout, a signal, a kernel short of memory (SQEs stay in the ring for the next call)."""
    return 0 if rc >= 0 or rc in (-ETIME, -EINTR, -EAGAIN, -EBUSY) else rc
