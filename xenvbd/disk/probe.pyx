"""Session: drive a Disk from Python or from a tight loop, with no ring and no hypervisor in between.

For tests and measurements: what the data plane does to a queue, this does too, in the calling thread.
"""
import os
import time

cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from xenvbd.disk.disk cimport (DISK_DISCARD, DISK_FLUSH, DISK_FUA, DISK_READ, DISK_WRITE, Disk, DiskQueue,
                               disk_op, iovec)
from xenvbd.disk.transfer cimport account, attempt, next_attempt

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

OPCODES = {"read": DISK_READ, "write": DISK_WRITE, "flush": DISK_FLUSH, "discard": DISK_DISCARD}

cdef enum:
    MOST_SEGMENTS = 1024
    SLOT = 0xA5             # what a slot's memory is filled with before a read


@cython.no_gc_clear         # __dealloc__ detaches the queue
cdef class Session:
    """An attached queue with depth slots of slot_bytes of memory each.

    Use it in the thread that made it, and close it (or use it as a context manager)."""
    cdef readonly Disk disk
    cdef DiskQueue queue
    cdef readonly unsigned depth
    cdef readonly size_t slot_bytes
    cdef char *memory
    cdef disk_op *ops
    cdef iovec *vectors
    cdef list free_slots
    cdef bint attached

    def __cinit__(self, Disk disk not None, unsigned depth=8, size_t slot_bytes=1 << 20, *,
                  bint register=True):
        self.disk, self.depth, self.slot_bytes = disk, depth, slot_bytes
        self.queue = disk.queue(depth)
        self.free_slots = list(range(depth))
        self.ops = <disk_op *>calloc(depth, sizeof(disk_op))
        self.vectors = <iovec *>calloc(depth * MOST_SEGMENTS, sizeof(iovec))
        cdef void *memory = mmap(NULL, depth * slot_bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED or self.ops == NULL or self.vectors == NULL:
            raise MemoryError
        self.memory = <char *>memory
        madvise(memory, depth * slot_bytes, MADV_HUGEPAGE)
        cdef int rc
        with nogil:
            rc = self.queue.attach()
        _check(rc, "attach")
        self.attached = True
        if register:
            with nogil:
                self.queue.register_buffer(memory, depth * slot_bytes)

    def __dealloc__(self):
        self._detach()
        if self.memory != NULL:
            munmap(self.memory, self.depth * self.slot_bytes)
        free(self.ops)
        free(self.vectors)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Detach.  The disk stays open."""
        self._detach()

    cdef _detach(self):
        if self.attached:
            with nogil:
                self.queue.detach()
            self.attached = False

    def forget_buffer(self):
        """Raises OSError."""
        cdef int rc
        with nogil:
            rc = self.queue.register_buffer(NULL, 0)
        _check(rc, "forget the buffer")

    def register_page(self, uint32_t number, int slot):
        """Give the first page of a slot's memory a number.  Raises OSError."""
        cdef int rc
        with nogil:
            rc = self.queue.register_page(number, self.memory + slot * self.slot_bytes)
        _check(rc, "register a page")

    def forget_page(self, uint32_t number):
        """Raises OSError."""
        cdef int rc
        with nogil:
            rc = self.queue.register_page(number, NULL)
        _check(rc, "forget a page")

    # One operation at a time; each raises OSError.

    def read(self, uint64_t offset, size_t length, *, segments=1, int page=0):
        """The bytes of a range.  page: see submit()."""
        return self.wait(self.submit("read", offset, length, segments=segments, page=page))

    def write(self, uint64_t offset, data, *, segments=1, bint fua=False):
        """Write data at offset; fua: it is on stable storage afterwards."""
        self.wait(self.submit("write", offset, data, segments=segments, fua=fua))

    def flush(self):
        """Put everything that was written on stable storage."""
        self.wait(self.submit("flush"))

    def discard(self, uint64_t offset, uint64_t length):
        """Give a range back; it reads as zeros."""
        self.wait(self.submit("discard", offset, length))

    # Many in flight.

    def submit(self, str op, uint64_t offset=0, what=0, *, segments=1, bint fua=False, size_t skew=0, int page=0):
        """Submit; the slot's number.  what: data to write, or a length.  segments: an even split into so many
        iovecs, or their lengths.  skew: bytes that the memory starts past a page.  page: the
        number of a registered one that the memory lies in.  See reap()."""
        cdef int slot = self.free_slots.pop()
        cdef disk_op *item = &self.ops[slot]
        cdef char *memory = self.memory + slot * self.slot_bytes + skew
        cdef const unsigned char[::1] data
        memset(item, 0, sizeof(disk_op))
        item.opcode, item.offset, item.flags = OPCODES[op], offset, DISK_FUA if fua else 0
        item.length = len(what) if op == "write" else what
        item.owner, item.buffer = <void *><size_t>slot, <uint16_t>page
        item.iov = &self.vectors[slot * MOST_SEGMENTS]
        if op in ("read", "write"):
            assert skew + item.length <= self.slot_bytes
            self._split(item, memory, segments)
            memset(memory, SLOT, item.length)
        if op == "write" and item.length:
            data = what
            memcpy(memory, &data[0], item.length)
        with nogil:
            self.queue.submit(item)
        return slot

    cdef _split(self, disk_op *item, char *memory, segments):
        if isinstance(segments, int):
            even = item.length // segments
            segments = [even] * (segments - 1) + [item.length - even * (segments - 1)]
        assert sum(segments) == item.length and len(segments) <= MOST_SEGMENTS
        item.nr_iov = len(segments)
        for i, length in enumerate(segments):
            item.iov[i].iov_base, item.iov[i].iov_len = memory, length
            memory += <size_t>length

    def reap(self, double timeout=0):
        """Finished operations: {slot: 0 or a negative errno}.  Waits timeout seconds for the first."""
        done = self._reap()
        deadline = time.monotonic() + timeout
        while not done and time.monotonic() < deadline:
            self.sleep(max(0, deadline - time.monotonic()))
            done = self._reap()
        return done

    def wait(self, int slot, double timeout=30):
        """Wait for one operation that is the only one in flight; what it read.  Raises its OSError."""
        result = self.reap(timeout)[slot]
        self.take(slot) if result < 0 else None
        _check(result, self.disk.target)
        return self.take(slot)

    def take(self, int slot):
        """What a finished read has read (None for others), and the slot is free again."""
        cdef disk_op *item = &self.ops[slot]
        self.free_slots.append(slot)
        if item.opcode != DISK_READ or item.result < 0:
            return None
        return (<char *>item.iov[0].iov_base)[:item.length] if item.length else b""

    cdef dict _reap(self):
        cdef disk_op *op
        cdef int rc
        with nogil:
            rc = self.queue.enter()
            op = self.queue.reap()
        _check(rc, "enter")
        results = {}
        while op != NULL:
            results[<size_t>op.owner] = op.result
            op = op.next
        return results

    # What the queue says besides.

    def watch(self, int fd, unsigned tag):
        """Let sleep() watch a descriptor."""
        cdef int rc
        with nogil:
            rc = self.queue.watch(fd, tag)
        _check(rc, "watch")

    def sleep(self, double timeout=-1):
        """DiskQueue.sleep(): the set of tags that are readable."""
        cdef uint32_t ready = 0
        cdef int64_t span = <int64_t>(timeout * 1e9) if timeout >= 0 else -1
        cdef int rc
        with nogil:
            rc = self.queue.sleep(span, &ready)
        _check(rc, "sleep")
        return {tag for tag in range(32) if ready >> tag & 1}

    @property
    def system_calls(self):
        """System calls that the queue has made."""
        cdef uint64_t calls
        with nogil:
            calls = self.queue.system_calls()
        return calls

    def load(self, double seconds, *, size_t block=4096, unsigned depth=0, str op="read", unsigned chunk=0,
             uint64_t seed=1, uint64_t count=0):
        """Random operations of one block each, depth in flight, without the GIL and with nothing besides.

        chunk: submissions before each enter(), 0: all.  count: end after so many, 0: only after seconds.
        A dict: ops, errors, seconds, cpu_seconds, calls."""
        cdef load_state state
        memset(&state, 0, sizeof(state))
        state.depth = depth or self.depth
        state.chunk = chunk or state.depth
        state.block, state.opcode, state.random = block, OPCODES[op], seed * 2 + 1
        state.blocks = self.disk.size // block
        state.seconds, state.count = seconds, count or <uint64_t>-1
        assert state.depth <= self.depth and block <= self.slot_bytes and state.blocks
        cdef uint64_t calls = self.queue.system_calls()
        with nogil:
            run_load(self.queue, self.ops, self.vectors, self.memory, self.slot_bytes, &state)
        return {"ops": state.ops, "errors": state.errors, "seconds": state.elapsed,
                "cpu_seconds": state.cpu, "calls": self.queue.system_calls() - calls}


cdef struct load_state:
    unsigned depth, chunk
    size_t block
    int opcode
    uint64_t blocks, random, count, ops, errors
    double seconds, elapsed, cpu


cdef double clock_seconds(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef void launch(DiskQueue queue, disk_op *op, load_state *state) noexcept nogil:
    """Submit an operation at a random block (xorshift)."""
    state.random ^= state.random << 13
    state.random ^= state.random >> 7
    state.random ^= state.random << 17
    op.offset, op.next = state.random % state.blocks * state.block, NULL
    queue.submit(op)


cdef void run_load(DiskQueue queue, disk_op *ops, iovec *vectors, char *memory, size_t slot_bytes,
                   load_state *state) noexcept nogil:
    """Keep depth operations in flight until the time is up, then drain."""
    cdef double start = clock_seconds(CLOCK_MONOTONIC), cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID)
    cdef unsigned i, inflight = state.depth, gathered = 0
    cdef bint more = True
    cdef disk_op *op
    cdef disk_op *chain
    cdef uint32_t ready
    for i in range(state.depth):
        memset(&ops[i], 0, sizeof(disk_op))
        ops[i].opcode, ops[i].length, ops[i].nr_iov, ops[i].iov = state.opcode, state.block, 1, &vectors[i]
        vectors[i].iov_base, vectors[i].iov_len = memory + i * slot_bytes, state.block
        launch(queue, &ops[i], state)
    while inflight:
        queue.enter()
        chain = queue.reap()
        while chain == NULL:
            queue.sleep(-1, &ready)
            chain = queue.reap()
        more = more and state.ops < state.count and clock_seconds(CLOCK_MONOTONIC) - start < state.seconds
        while chain != NULL:
            op, chain = chain, chain.next
            state.ops += 1
            state.errors += op.result < 0
            if not more:
                inflight -= 1
                continue
            launch(queue, op, state)
            gathered += 1
            if gathered >= state.chunk:
                queue.enter()
                gathered = 0
    state.elapsed = clock_seconds(CLOCK_MONOTONIC) - start
    state.cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - cpu


cdef _check(int rc, what):
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc), what)


def transfer(str op, what, results):
    """The rules of transfer.pyx by themselves: an operation at offset 0 whose calls bring these results.

    what: the lengths of its iovecs, or a discard's length.  (result, [(offset, length, iovecs) of each call])."""
    cdef disk_op item
    cdef attempt call
    cdef iovec vectors[MOST_SEGMENTS]
    memset(&item, 0, sizeof(item))
    memset(&call, 0, sizeof(call))
    item.opcode, item.iov = OPCODES[op], vectors
    lengths = what if isinstance(what, list) else []
    item.length, item.nr_iov = sum(lengths) if lengths else what or 0, len(lengths)
    for i, length in enumerate(lengths):
        vectors[i].iov_base, vectors[i].iov_len = NULL, length
    calls = []
    for result in results:
        next_attempt(&item, &call)
        calls.append((call.offset, call.length, call.nr_iov if lengths else 0))
        if account(&item, call.length, result):
            return item.result, calls
    raise ValueError("the operation is not finished after all these results")
