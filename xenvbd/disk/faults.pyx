"""A filter that makes a disk fail, tarry or hold operations back, told from Python while I/O threads run; it also keeps
a record of what is asked of the disk.

For tests of what stands above a disk.  A rule applies to operations as they are submitted; what it delays or
holds has not reached the disk below, so it can be given back or still be done, as a real one could.
"""
import os
import time

cimport cython
from libc.errno cimport EINVAL
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from xenvbd.disk.atomics cimport add32, add64, load32, load64, store32, store64
from xenvbd.disk.disk cimport DISK_DISCARD, DISK_WRITE, Disk, DiskQueue, disk_op, iovec
from xenvbd.disk.oplist cimport op_list, ops_pop, ops_push, ops_take

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void *into, size_t length)

cdef extern from "sys/uio.h" nogil:
    ssize_t writev(int fd, const iovec *iov, int count)

OPCODES = {"read": 1, "write": 2, "flush": 4, "discard": 8, "any": 15}

cdef enum:
    RULES = 16
    KINDS = 4               # of opcodes
    WAKEUP_TAG = 31         # a filter's; the caller has the others
    FAIL = 1
    HOLD = 2
    DELAY = 3
    ALL_READY = 0x7fffffff
    RECORDED = 512          # iovecs of a write at most

cdef uint64_t MAGIC = 0x64726f6365526276


cdef struct rule:
    int32_t action          # 0: the slot is free; stored last, loaded first
    int32_t generation      # tells a rule from the one that had its slot before
    uint32_t opcodes
    int32_t error
    int64_t delay_ns
    int64_t transfer        # bytes done before it fails
    int64_t after           # operations to let through first
    int64_t left            # operations to hit
    int64_t hits


cdef struct entry:
    # Of a record: an operation is about to be asked of the disk below (a write's data follows), or has come back.
    uint64_t magic          # where one begins: who is killed while he writes it leaves a part
    uint64_t opcode
    uint64_t ended
    uint64_t time           # CLOCK_MONOTONIC, nanoseconds
    uint64_t op             # tells it from the others that are there at the same time
    uint64_t offset
    uint64_t length
    int64_t result


cdef struct torn:
    # An operation that is cut short: what the disk below is asked instead.
    disk_op op
    iovec part
    disk_op *original
    int error


@cython.no_gc_clear         # its queues need it to the end
cdef class FaultDisk(Disk):
    """The disk below, with faults.  It belongs to this one: close() closes it too.

    Rules are tried in the order of their slots and the first that applies decides.  op is "read", "write",
    "flush", "discard" or "any"; after: operations let through first; count: how many are hit, None for all.
    discard_unit: of storage with larger blocks, that refuses to discard a part of one.
    record: a descriptor (O_APPEND) to which an entry is written for each begin and end of what no rule stops."""
    cdef readonly Disk lower
    cdef int record
    cdef rule rules[RULES]
    cdef int64_t seen_ops[KINDS]
    cdef int32_t held_ops
    cdef set wakeups        # an eventfd for each queue

    def __cinit__(self, Disk lower not None, *, int record=-1, uint32_t discard_unit=0):
        self.lower, self.wakeups, self.record = lower, set(), record
        self.target, self.engine, self.size, self.read_only = (
            lower.target, f"faults+{lower.engine}", lower.size, lower.read_only)
        self.logical_block_size, self.physical_block_size = lower.logical_block_size, lower.physical_block_size
        self.alignment, self.can_discard = lower.alignment, lower.can_discard
        self.discard_unit = discard_unit or lower.discard_unit
        self.discard_granularity, self.discard_alignment = lower.discard_granularity, lower.discard_alignment

    cpdef DiskQueue queue(self, unsigned depth):
        return FaultQueue(self, self.lower.queue(depth), depth)

    cpdef close(self):
        self.lower.close()

    # Rules.

    def fail(self, str op, int error, *, int64_t after=0, count=None, int64_t transfer=0):
        """Fail with an errno; after transfer bytes of a read or write were done (of the first iovec at most).
        The rule's number."""
        return self._add(FAIL, op, after, count, error=error, transfer=transfer)

    def hold(self, str op, *, int64_t after=0, count=None):
        """Hold operations back until the rule is cleared.  The rule's number."""
        return self._add(HOLD, op, after, count)

    def delay(self, str op, double seconds, *, int64_t after=0, count=None):
        """Start operations so much later.  The rule's number."""
        return self._add(DELAY, op, after, count, delay_ns=int(seconds * 1e9))

    def clear(self, number=None):
        """End a rule, or all; what it held goes on."""
        for i in range(RULES) if number is None else [number]:
            store32(&self.rules[<int>i].action, 0)
        for wakeup in self.wakeups:
            os.eventfd_write(wakeup, 1)

    def hits(self, int number):
        """How many operations a rule has hit; also after it was cleared."""
        return load64(&self.rules[number].hits)

    def seen(self, str op):
        """How many operations of a kind were submitted so far."""
        return sum(load64(&self.seen_ops[i]) for i in range(KINDS) if OPCODES[op] >> i & 1)

    @property
    def held(self):
        """How many operations are held or delayed now."""
        return load32(&self.held_ops)

    def wait_held(self, int count, double timeout=10):
        """Wait until so many operations are held.  Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.held < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.held} of {count} operations are held")
            time.sleep(0.001)

    def _add(self, int action, str op, int64_t after, count, *, int error=0, int64_t delay_ns=0,
             int64_t transfer=0):
        cdef int i
        for i in range(RULES):
            if load32(&self.rules[i].action) == 0:
                break
        else:
            raise OSError(EINVAL, f"no more than {RULES} rules")
        self.rules[i].opcodes, self.rules[i].error, self.rules[i].delay_ns = OPCODES[op], error, delay_ns
        self.rules[i].transfer = transfer
        store64(&self.rules[i].hits, 0)
        store64(&self.rules[i].after, after)
        store64(&self.rules[i].left, 1 << 62 if count is None else count)
        add32(&self.rules[i].generation, 1)
        store32(&self.rules[i].action, action)
        return i

    cdef rule *match(self, disk_op *op) noexcept nogil:
        """The rule that decides about an operation, or NULL.  Threads may ask at the same time."""
        cdef rule *one
        cdef int i
        add64(&self.seen_ops[op.opcode], 1)
        for i in range(RULES):
            one = &self.rules[i]
            if load32(&one.action) == 0 or not one.opcodes >> op.opcode & 1:
                continue
            if add64(&one.after, -1) >= 0 or add64(&one.left, -1) < 0:
                continue
            add64(&one.hits, 1)
            return one
        return NULL

    cdef bint still_holds(self, disk_op *op, uint64_t now) noexcept nogil:
        """Whether the rule that stopped an operation is still there, and its time not yet up."""
        cdef rule *one = &self.rules[op.state]
        return (load32(&one.action) != 0 and load32(&one.generation) == <int32_t>op.tries
                and (op.done == 0 or now < op.done))


@cython.no_gc_clear         # __dealloc__ needs the disk
cdef class FaultQueue(DiskQueue):
    """Passes on what no rule stops."""
    cdef FaultDisk disk
    cdef DiskQueue lower
    cdef int wakeup
    cdef op_list finished
    cdef op_list held
    cdef torn *pieces
    cdef unsigned depth

    def __cinit__(self, FaultDisk disk not None, DiskQueue lower not None, unsigned depth):
        self.disk, self.lower, self.depth = disk, lower, depth
        self.wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        disk.wakeups.add(self.wakeup)
        self.pieces = <torn *>calloc(depth, sizeof(torn))
        if self.pieces == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.disk is not None:       # else __cinit__ failed
            self.disk.wakeups.discard(self.wakeup)
            os.close(self.wakeup)
        free(self.pieces)

    cdef int attach(self) noexcept nogil:
        cdef int rc = self.lower.attach()
        return rc if rc < 0 else self.lower.watch(self.wakeup, WAKEUP_TAG)

    cdef void detach(self) noexcept nogil:
        self.lower.detach()

    cdef int register_buffer(self, void *address, size_t length) noexcept nogil:
        return self.lower.register_buffer(address, length)

    cdef int register_page(self, uint32_t number, void *address) noexcept nogil:
        return self.lower.register_page(number, address)

    cdef int watch(self, int fd, uint32_t tag) noexcept nogil:
        return -EINVAL if tag == WAKEUP_TAG else self.lower.watch(fd, tag)

    cdef uint64_t system_calls(self) noexcept nogil:
        return self.lower.system_calls()

    cdef void submit(self, disk_op *chain) noexcept nogil:
        cdef disk_op *op
        while chain != NULL:
            op, chain = chain, chain.next
            self.submit_one(op)

    cdef void submit_one(self, disk_op *op) noexcept nogil:
        cdef rule *one = self.disk.match(op)
        if op.opcode == DISK_DISCARD and (op.offset | op.length) & (self.disk.discard_unit - 1):
            op.result = -EINVAL
            ops_push(&self.finished, op)
        elif one == NULL:
            self.pass_on(op)
        elif one.action != FAIL:
            self.hold_back(op, one)
        elif one.transfer > 0 and op.nr_iov > 0:
            self.tear(op, one)
        else:
            op.result = -one.error
            ops_push(&self.finished, op)

    cdef void keep(self, disk_op *op, bint ended) noexcept nogil:
        """Write an entry of the record."""
        cdef entry one
        cdef iovec all[1 + RECORDED]
        cdef int i, count = op.nr_iov if op.opcode == DISK_WRITE and not ended else 0
        one.magic = MAGIC
        one.opcode, one.ended, one.time = op.opcode, ended, now_ns()
        one.op, one.offset, one.length = <uint64_t>op, op.offset, op.length
        one.result = op.result if ended else 0
        all[0].iov_base, all[0].iov_len = &one, sizeof(one)
        for i in range(min(count, RECORDED)):
            all[1 + i] = op.iov[i]
        writev(self.disk.record, all, 1 + min(count, RECORDED))

    cdef void pass_on(self, disk_op *op) noexcept nogil:
        if self.disk.record >= 0:
            self.keep(op, False)
        op.next = NULL
        self.lower.submit(op)

    cdef void hold_back(self, disk_op *op, rule *one) noexcept nogil:
        op.state = <uint32_t>(one - self.disk.rules)
        op.tries = <uint32_t>load32(&one.generation)
        op.done = now_ns() + <uint64_t>one.delay_ns if one.delay_ns else 0
        ops_push(&self.held, op)
        add32(&self.disk.held_ops, 1)

    cdef void let_go(self) noexcept nogil:
        """Pass on what nothing holds any longer, in the order it came."""
        cdef op_list before = self.held
        cdef uint64_t now
        cdef disk_op *op
        if before.first == NULL:
            return
        now = now_ns()
        self.held.first = NULL
        op = ops_pop(&before)
        while op != NULL:
            if self.disk.still_holds(op, now):
                ops_push(&self.held, op)
            else:
                add32(&self.disk.held_ops, -1)
                self.pass_on(op)
            op = ops_pop(&before)

    cdef void tear(self, disk_op *op, rule *one) noexcept nogil:
        """Do only the beginning of a read or write."""
        cdef torn *piece = self.pieces
        while piece.original != NULL:
            piece += 1
        piece.original, piece.error = op, -one.error
        piece.op = op[0]
        piece.part.iov_base = op.iov[0].iov_base
        piece.part.iov_len = min(<size_t>one.transfer, op.iov[0].iov_len)
        piece.op.iov, piece.op.nr_iov, piece.op.length = &piece.part, 1, piece.part.iov_len
        self.pass_on(&piece.op)

    cdef disk_op *mend(self, disk_op *op) noexcept nogil:
        """The caller's operation of one that came back from below."""
        cdef torn *piece = <torn *>op          # op is its first member
        cdef disk_op *original
        if piece < self.pieces or piece >= self.pieces + self.depth:
            return op
        original = piece.original
        original.result = op.result if op.result < 0 else piece.error
        piece.original = NULL
        return original

    cdef int enter(self) noexcept nogil:
        self.let_go()
        return self.lower.enter()

    cdef disk_op *reap(self) noexcept nogil:
        cdef disk_op *op
        cdef disk_op *chain = self.lower.reap()
        while chain != NULL:
            op, chain = chain, chain.next
            if self.disk.record >= 0:
                self.keep(op, True)
            ops_push(&self.finished, self.mend(op))
        return ops_take(&self.finished)

    cdef int64_t until_due(self, int64_t timeout_ns) noexcept nogil:
        """The timeout, or the time until the first delayed operation is due if that is sooner."""
        cdef disk_op *op = self.held.first
        cdef uint64_t now
        cdef int64_t left
        if self.finished.first != NULL:
            return 0
        now = now_ns()
        while op != NULL:
            left = <int64_t>(op.done - now) if op.done > now else 0
            if op.done and (timeout_ns < 0 or left < timeout_ns):
                timeout_ns = left
            op = op.next
        return timeout_ns

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        cdef uint64_t count
        cdef int rc
        self.let_go()
        rc = self.lower.sleep(self.until_due(timeout_ns), ready)
        if ready[0] >> WAKEUP_TAG & 1:
            read(self.wakeup, &count, sizeof(count))
            ready[0] &= ALL_READY
        return rc


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
