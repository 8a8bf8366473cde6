"""The load generator: a loop without the GIL that keeps a queue full, verifies what it reads, and counts.

It runs in slices: Load.step(seconds) returns to Python between them with the requests still in flight, so a guest
process needs no second thread to report progress, to handle a signal, or to see the backend close.
"""
from libc.errno cimport EAGAIN, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport clock_gettime, timespec

import errno

from xenvbd.frontend.core cimport FAULT_DATA, FAULT_STATUS, FAULT_UNANSWERED, RAW, deadline, now_ns, slot
from xenvbd.frontend.queue cimport FrontQueue
from xenvbd.frontend.shadow cimport Shadow
from xenvbd.ring cimport (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_OKAY,
    XENVBD_SECTOR_SIZE,
)

from xenvbd.frontend.oracle import OracleError
from xenvbd.stats import Snapshot

cdef extern from "time.h" nogil:
    enum:
        CLOCK_THREAD_CPUTIME_ID

cdef extern from "xenvbd/stats.h" nogil:
    enum:
        XENVBD_STATS_MAGIC
    struct xenvbd_op_stats:
        uint64_t ops, bytes, errors, nanoseconds
        uint64_t histogram[128]
    struct xenvbd_stats:
        uint64_t magic, inflight, passes, wakeups, events_in, events_out, pushes
        xenvbd_op_stats op[4]
    unsigned xenvbd_histogram_bucket(uint64_t ns)

cdef extern from * nogil:
    """
    static inline uint64_t xenvbd_scale(uint64_t random, uint64_t range)
    { return (uint64_t)(((unsigned __int128)random * range) >> 64); }
    """
    uint64_t xenvbd_scale(uint64_t random, uint64_t range)      # uniform in [0, range)

cdef uint64_t MOST_BUSY = 1 << 16       # a power of two, far more than there are ever requests in flight

cdef enum outcome:
    MORE = 1
    FINISHED = 2

KINDS = ("read", "write", "randread", "randwrite", "randrw", "verify")


cdef uint64_t thread_cpu() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef class Load:
    """Load(queue, shadow, rw=..., ...): one run of a load on a FrontQueue.

    rw: read, write (in order), randread, randwrite, randrw (read_percent of them reads), verify (read all in order,
    and settle what a discard or a failed write left open).  bs: bytes of a request.  iodepth: requests in flight.
    first, sectors: the region, in 512-byte sectors.  count: operations, seconds: time; neither: once over the region.
    verify: check what is read against the shadow and write its pattern; else the region's content is unknown after.
    flush_every, discard_every: a FLUSH, a DISCARD instead of the next write, after so many writes (0: never).
    skew: data starts at a random sector of its first page.  batch: requests put on the ring between two looks at it.
    tolerate: an answer other than OKAY is counted; otherwise it is an OracleError.  timeout: seconds without any
    response.  ValueError: a request larger than the queue can send, an empty region.
    """
    cdef FrontQueue queue
    cdef Shadow shadow
    cdef bytearray counters
    cdef xenvbd_stats *stats
    cdef uint8_t *busy                  # by the block's lower bits: another that shares them is left for later as well
    cdef uint64_t busy_mask, nr_blocks, cursor, random, limit, sent, end, started, stopped, last_answer, timeout
    cdef uint64_t first, sectors, verified_sectors, cpu
    cdef uint64_t out0, in0, wakeups0, pushes0
    cdef readonly uint32_t depth        # requests in flight, at most: what was asked for, or what the ring has room for
    cdef uint32_t block, batch, read_share, since_flush, since_discard, flush_every, discard_every
    cdef bint sequential, reads, writes, verifying, settling, skewed, tolerate
    cdef public bint stop               # no new requests; what is in flight is waited for
    cdef readonly str rw

    def __cinit__(self, FrontQueue queue, Shadow shadow, *, str rw="randread", uint32_t bs=4096, uint32_t iodepth=32,
                  uint64_t first=0, sectors=None, count=None, seconds=None, uint64_t seed=1, bint verify=True,
                  unsigned read_percent=50, uint32_t flush_every=0, uint32_t discard_every=0, bint skew=False,
                  uint32_t batch=0, bint tolerate=False, double timeout=30):
        if rw not in KINDS:
            raise ValueError(f"rw {rw!r} is none of {', '.join(KINDS)}")
        self.queue, self.shadow, self.rw, self.first, self.skewed = queue, shadow, rw, first, skew
        self.sectors = shadow.sectors - min(first, shadow.sectors) if sectors is None else sectors
        self.block = bs // XENVBD_SECTOR_SIZE
        # Requests of one id cannot be told apart: one at a time, as GRUB sends them.
        self.depth = 1 if queue.anonymous else min(iodepth, queue.entries)
        self._check_size(bs)
        self.nr_blocks = (self.sectors + self.block - 1) // self.block
        self.sequential, self.settling = not rw.startswith("rand"), rw == "verify"
        self.reads, self.writes = rw in ("read", "randread", "randrw", "verify"), rw in ("write", "randwrite", "randrw")
        self.verifying = verify or self.settling
        self.read_share = read_percent if self.reads and self.writes else 100 * self.reads
        self.flush_every, self.discard_every, self.tolerate = flush_every, discard_every, tolerate
        self.batch, self.timeout = batch or self.depth, <uint64_t>(timeout * 1e9)
        self.random = seed
        self.limit = count if count is not None else (~<uint64_t>0 if seconds is not None else self.nr_blocks)
        self.end = ~<uint64_t>0 if seconds is None else <uint64_t>(seconds * 1e9)   # from the first step on
        self._allocate()

    def _check_size(self, bs):
        if bs == 0 or bs % XENVBD_SECTOR_SIZE:
            raise ValueError(f"bs {bs} is not a multiple of {XENVBD_SECTOR_SIZE}")
        if (self.block + 7 * self.skewed + 7) // 8 > self.queue.max_segments:
            raise ValueError(f"bs {bs} needs more than the {self.queue.max_segments} segments a request may have")
        if self.sectors == 0 or self.first + self.sectors > self.shadow.sectors:
            raise ValueError(f"no region of {self.sectors} sectors at {self.first} on a disk of {self.shadow.sectors}")

    def _allocate(self):
        cdef uint32_t pages = (self.block + 7 * self.skewed + 7) // 8 + 1
        self.queue.pool.reserve(self.depth * pages)
        self.counters = bytearray(sizeof(xenvbd_stats))
        self.stats = <xenvbd_stats *><char *>self.counters
        self.stats.magic = XENVBD_STATS_MAGIC
        if self.writes:
            while self.busy_mask < self.nr_blocks - 1 and self.busy_mask < MOST_BUSY - 1:
                self.busy_mask = self.busy_mask << 1 | 1
            self.busy = <uint8_t *>calloc(self.busy_mask + 1, 1)
            if self.busy is NULL:
                raise MemoryError()
            if not self.verifying:
                self.shadow.forget(self.first, self.sectors)
        self.out0, self.in0 = self.queue.events_out, self.queue.events_in
        self.wakeups0, self.pushes0 = self.queue.wakeups, self.queue.pushes

    def __dealloc__(self):
        free(self.busy)

    # What to do next

    cdef uint64_t rand(self) noexcept nogil:
        """splitmix64."""
        self.random += <uint64_t>0x9E3779B97F4A7C15
        cdef uint64_t z = self.random
        z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
        return z ^ (z >> 31)

    cdef int64_t pick(self) noexcept nogil:
        """The next block; -1: every one that may be taken is in flight.  No two requests in flight share a block as
        long as there are writes, so that it is certain what each read may return."""
        cdef uint64_t block, tries
        block = self.cursor % self.nr_blocks if self.sequential else xenvbd_scale(self.rand(), self.nr_blocks)
        if self.busy is not NULL:
            for tries in range(64):
                if not self.busy[block & self.busy_mask]:
                    break
                if self.sequential or tries == 63:
                    return -1
                block = block + 1 if block + 1 < self.nr_blocks else 0
        self.cursor += self.sequential
        return <int64_t>block

    cdef uint8_t operation(self) noexcept nogil:
        """What to do with the next block."""
        if self.flush_every and self.since_flush >= self.flush_every:
            self.since_flush = 0
            return BLKIF_OP_FLUSH_DISKCACHE
        if self.discard_every and self.since_discard >= self.discard_every:
            self.since_discard = 0
            return BLKIF_OP_DISCARD
        if xenvbd_scale(self.rand(), 100) < self.read_share:
            return BLKIF_OP_READ
        self.since_flush += 1
        self.since_discard += 1
        return BLKIF_OP_WRITE

    cdef int submit(self, uint64_t now) noexcept nogil:
        """Put one request on the ring.  0; -EAGAIN: not now."""
        cdef uint8_t operation, skew = <uint8_t>(self.rand() & 7) if self.skewed else 0
        cdef int64_t block = self.pick()
        cdef uint64_t sector, sectors
        cdef int index
        if block < 0:
            return -EAGAIN
        operation = self.operation()
        sector = <uint64_t>block * self.block
        sectors = min(<uint64_t>self.block, self.sectors - sector)
        if operation == BLKIF_OP_FLUSH_DISKCACHE:
            sector = sectors = skew = 0
            self.cursor -= self.sequential
        index = self.queue.begin(operation, self.first + sector, <uint32_t>sectors, skew)
        if index < 0:
            self.cursor -= self.sequential
            return index
        self.prepare(&self.queue.slots[index], index, block)
        self.queue.slots[index].started = now
        self.queue.put(index)
        self.sent += operation != BLKIF_OP_FLUSH_DISKCACHE
        self.stats.inflight += 1
        return 0

    cdef void prepare(self, slot *s, int index, int64_t block) noexcept nogil:
        """The shadow's and the busy map's part of a request that goes out."""
        if s.operation == BLKIF_OP_FLUSH_DISKCACHE:
            return
        if self.busy is not NULL:
            self.busy[<uint64_t>block & self.busy_mask] = 1
        if s.operation == BLKIF_OP_WRITE and self.verifying:
            s.version = self.shadow.begin(s.sector, s.sectors)
            self.queue.fill(index, self.shadow)
        elif s.operation == BLKIF_OP_DISCARD:
            self.shadow.discard(s.sector, s.sectors)

    # What came back

    cdef int complete(self, int index, uint64_t now) noexcept nogil:
        """Check and count the answer in a slot, and free the slot.  0 or -EPROTO."""
        cdef slot *s = &self.queue.slots[index]
        cdef int64_t bad
        if s.status != BLKIF_RSP_OKAY and not self.tolerate:
            return self.queue.blame(FAULT_STATUS, index, s.answer, 0, s.status)
        if s.status == BLKIF_RSP_OKAY and s.operation == BLKIF_OP_READ:
            bad = self.judge(index, s)
            if bad >= 0:
                self.queue.wrong.sector = <uint64_t>bad
                return self.queue.blame(FAULT_DATA, index, s.answer, 0, s.status)
        elif s.status == BLKIF_RSP_OKAY and s.version:
            self.shadow.commit(s.sector, s.sectors, s.version)
        if self.busy is not NULL and s.operation != BLKIF_OP_FLUSH_DISKCACHE:
            self.busy[(s.sector - self.first) // self.block & self.busy_mask] = 0
        self.account(s, now)
        return self.queue.release(index)

    cdef int64_t judge(self, int index, slot *s) noexcept nogil:
        """The first sector of a READ that is wrong, or -1."""
        cdef int64_t bad = -1
        if not self.queue.spared(s):
            return <int64_t>s.sector
        if self.verifying:
            bad = self.queue.verify(index, self.shadow)
            self.verified_sectors += s.sectors
            if self.settling and bad < 0:
                self.queue.settle(index, self.shadow)
        return bad

    cdef void account(self, slot *s, uint64_t now) noexcept nogil:
        cdef int which = 0 if s.operation == BLKIF_OP_READ else 1 if s.operation == BLKIF_OP_WRITE else (
            2 if s.operation == BLKIF_OP_FLUSH_DISKCACHE else 3)
        cdef xenvbd_op_stats *op = &self.stats.op[which]
        cdef uint64_t latency = now - s.started
        op.ops += 1
        op.bytes += <uint64_t>s.sectors * XENVBD_SECTOR_SIZE
        op.errors += s.status != BLKIF_RSP_OKAY
        op.nanoseconds += latency
        op.histogram[xenvbd_histogram_bucket(latency)] += 1
        self.stats.inflight -= 1

    # The loop

    cdef int fill_up(self, uint64_t now) noexcept nogil:
        """As many requests as may be in flight, published at once.  0 or a negative errno."""
        cdef uint32_t put = 0
        cdef int rc = 0
        while self.stats.inflight < self.depth and self.sent < self.limit and put < self.batch and rc == 0:
            rc = self.submit(now)
            put += rc == 0
        if put:
            rc = self.queue.push()
        return 0 if rc == -EAGAIN else rc

    cdef int reap(self, int n) noexcept nogil:
        cdef uint64_t now = now_ns()
        cdef int _i, rc
        for _i in range(n):
            rc = self.queue.take()
            # An answer to a raw request is not ours; its slot waits for responses().
            if rc >= 0 and self.queue.slots[rc].operation != RAW:
                rc = self.complete(rc, now)
            if rc < 0:
                return rc
        self.last_answer = now
        self.stats.passes += 1
        return 0

    cdef int run(self, uint64_t until) noexcept nogil:
        """Until that time, or the end: MORE, FINISHED or a negative errno."""
        cdef uint64_t now = now_ns()
        cdef int rc
        if self.stats.inflight == 0:
            self.last_answer = now
        while True:
            if not self.stop and now < self.end:
                rc = self.fill_up(now)
                if rc < 0:
                    return rc
            if self.stats.inflight == 0 and (self.stop or now >= self.end or self.sent >= self.limit):
                return FINISHED
            rc = self.queue.wait(min(until, self.last_answer + self.timeout))
            if rc > 0:
                rc = self.reap(rc)
            elif rc == 0 and now_ns() >= self.last_answer + self.timeout:
                self.last_answer = now_ns()     # whoever steps on waits as long again
                return self.queue.blame(FAULT_UNANSWERED, -1, 0, 0, 0)
            now = now_ns()
            if rc < 0 or now >= until:
                return rc if rc < 0 else MORE

    def step(self, double seconds):
        """Run for so long; False once nothing is left to do and nothing is in flight.  Raises OracleError (also
        for wrong data), Unanswered, HypervisorError."""
        cdef uint64_t until = deadline(seconds), cpu = thread_cpu()
        cdef int rc
        self.queue._usable()
        if not self.started:
            self.started = now_ns()
            self.end = self.end + self.started if self.end != ~<uint64_t>0 else self.end
        self.queue.unmarked = not self.verifying
        with nogil:
            rc = self.run(until)
        self.queue.unmarked = False
        self.cpu += thread_cpu() - cpu
        self.stopped = now_ns()
        self._publish()
        if rc < 0:
            self._raise(rc)
        return rc == MORE

    def _raise(self, int rc):
        """The fault that ended the run; wrong data in the shadow's words."""
        if rc == -EPROTO and self.queue.wrong.kind == FAULT_DATA and self.queue.wrong.slot >= 0:
            self.queue.disabled = self._wrong_data(self.queue.wrong.slot, self.queue.wrong.sector)
            raise self.queue.disabled
        self.queue._must(rc)

    def _wrong_data(self, int index, uint64_t sector):
        cdef slot *s = &self.queue.slots[index]
        cdef bytearray data = bytearray(s.sectors * XENVBD_SECTOR_SIZE)
        self.queue.copy_out(index, data)
        at = (sector - s.sector) * XENVBD_SECTOR_SIZE
        facts = {"sector": sector, "id": s.id, "request-sector": s.sector, "request-sectors": s.sectors}
        return OracleError(errno.EILSEQ, self.shadow.mismatch(sector, bytes(data[at:at + XENVBD_SECTOR_SIZE]))
                           or str(self.queue.fault()), facts=facts)

    cdef void _publish(self):
        """The counters that are the queue's."""
        self.stats.events_out = self.queue.events_out - self.out0
        self.stats.events_in = self.queue.events_in - self.in0
        self.stats.wakeups = self.queue.wakeups - self.wakeups0
        self.stats.pushes = self.queue.pushes - self.pushes0

    @property
    def snapshot(self):
        """The counters so far, a stats.Snapshot: operations, bytes, errors and latencies each, notifications."""
        return Snapshot.from_bytes(bytes(self.counters))

    @property
    def verified(self):
        """Bytes read and compared so far."""
        return self.verified_sectors * XENVBD_SECTOR_SIZE

    @property
    def seconds(self):
        """From the first step to the end of the last."""
        return (self.stopped - self.started) / 1e9

    @property
    def cpu_seconds(self):
        """CPU time of the thread in step()."""
        return self.cpu / 1e9

    @property
    def operations(self):
        """How many the run has to do; None: as many as it can."""
        return None if self.limit == ~<uint64_t>0 else self.limit
