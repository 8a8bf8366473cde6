"""The frontend's queue as Python sees it: single requests, raw requests, faults as errors."""
from libc.errno cimport EINVAL
from libc.string cimport memcpy, memset

import errno
from collections import namedtuple

from xenvbd.frontend.core cimport (
    FAULT_NONE,
    FAULT_OVERRUN,
    FAULT_UNANSWERED,
    FAULT_UNKNOWN,
    RAW,
    SLOT_ANSWERED,
    SLOT_PENDING,
    Peer,
    deadline,
    fault,
    slot,
)
from xenvbd.frontend.pool cimport MAX_SEGMENTS
from xenvbd.ring cimport (
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_RSP_OKAY,
    XENVBD_PAGE_SIZE,
    front_free,
    front_push,
)

from xenvbd.errors import check
from xenvbd.frontend import oracle
from xenvbd.ring import ABIS, FrontRing

cdef extern from * nogil:
    """
    static inline void xenvbd_store32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_SEQ_CST); }
    """
    void xenvbd_store32(void *p, uint32_t v)

cdef enum:
    RING_HEADER = 64

# enum fault_kind
FAULTS = ("", "overrun", "unknown", "duplicate", "operation", "status", "data", "unanswered", "system")

Response = namedtuple("Response", "id operation status")
Response.__doc__ = "A response as it was on the ring."


cdef class FrontQueue(Core):
    """FrontQueue(hypervisor, domid, order=0, abi="native", pages=256, fresh_grants=False, index=0): a ring of
    2**order pages shared with the backend domain domid, an event channel for it, and a pool of data pages.

    abi: a name of ring.ABIS.  fresh_grants: every request's pages are granted for it and revoked at its response, as
    blkfront does without persistent grants; else the pool is granted once.  index: where the ring's indices start.
    Raises HypervisorError, ValueError, MemoryError.
    """

    def __cinit__(self, *args, **options):
        self.odd_ids = set()

    @property
    def refs(self):
        """The ring's grant references."""
        return self.ring_pages.refs

    @property
    def ring_memory(self):
        """The ring's pages as they are shared: a writable memoryview, for tests that scribble."""
        return memoryview(self.ring_pages).cast("B")

    @property
    def entry_size(self):
        """Bytes of one entry of the ring: blkif.h's request in this ABI."""
        return 108 if ABIS[self.abi] == ABIS["x86_32-abi"] else 112

    def reserve(self, uint32_t pages):
        """Let the pool hold at least so many data pages.  HypervisorError: the grant table is full."""
        self.pool.reserve(pages)

    @property
    def outstanding(self):
        """The ids on the ring without an answer, in the order of their slots."""
        return [self.slots[i].id for i in range(self.entries) if self.slots[i].state == SLOT_PENDING]

    def share(self, uint32_t count, bint writable=True):
        """Pages granted to the backend, for raw requests: a hv.grant.Shared (refs, buffer, unshare())."""
        return self.pool.sharer.share(self.domid, count, writable)

    def attach(self, Peer peer):
        """Let a Peer serve this ring in this thread, instead of a backend behind the event channel; None: no more."""
        self.peer = peer

    def notify_backend(self):
        """Send an event whether the ring asks for it or not."""
        self._usable()
        check(self.notify(), "notify the backend")

    def execute(self, uint8_t operation, uint64_t sector, uint32_t sectors, const unsigned char[::1] data=None,
                double timeout=30, uint8_t skew=0, uint8_t flag=0):
        """One request, and its answer: (status, the bytes read or None).

        sector and sectors are 512-byte units, skew the sectors left out at the start of the first page, flag a
        DISCARD's.  Raises OracleError, Unanswered; ValueError for more segments than max_segments."""
        cdef int rc, index
        self._usable()
        if data is not None and data.shape[0] != <Py_ssize_t>sectors * 512:
            raise ValueError(f"{data.shape[0]} bytes for {sectors} sectors")
        self.pool.reserve(min(sectors, MAX_SEGMENTS * 8) // 8 + 3)
        index = self.begin(operation, sector, sectors, skew)
        if index < 0:
            raise self._no_slot(-index, sectors)
        self.slots[index].flag = flag
        if data is not None and data.shape[0]:
            self.copy_in(index, <const char *>&data[0])
        self.put(index)
        cdef uint64_t until = deadline(timeout)
        with nogil:
            rc = self.push()
            rc = rc if rc < 0 else self.finish(index, until)
        self._must(rc)
        return self._result(index)

    def _result(self, int index):
        """What an answered slot holds, which is free again."""
        cdef slot *s = &self.slots[index]
        cdef bytearray out = None
        cdef int status = s.status
        if s.operation == BLKIF_OP_READ and status == BLKIF_RSP_OKAY:
            out = bytearray(s.sectors * 512)
            self.copy_out(index, out)
        self._must(self.release(index))
        return status, None if out is None else bytes(out)

    def _no_slot(self, int error, sectors):
        if error == EINVAL:
            return ValueError(f"{sectors} sectors need more than {self.max_segments} segments")
        return OSError(error, f"no room for the request: {len(self.outstanding)} outstanding, "
                              f"{self.pool.nr_free} pages free")

    def raw(self, request, answer=None):
        """Put a ring.Request on the ring as it is; publish() shows it to the backend.  Returns its id.

        answer: the operation its response must carry (default: the request's, for INDIRECT its sub).
        OSError(ENOSPC): the ring is full."""
        scratch = bytearray(XENVBD_PAGE_SIZE)
        FrontRing(scratch, self.abi).put(request)
        if answer is None:
            answer = request.sub if request.operation == BLKIF_OP_INDIRECT else request.operation
        return self.raw_bytes(bytes(scratch[RING_HEADER:RING_HEADER + self.entry_size]), request.id, answer)

    def raw_bytes(self, bytes entry, uint64_t id, uint8_t answer):
        """Put the bytes of an entry on the ring, of any length up to entry_size.  id, answer: of its response."""
        cdef char *p
        self._usable()
        p = <char *>self.ring.sring + RING_HEADER + (
            <size_t>(self.ring.req_prod_pvt & (self.entries - 1)) * <size_t>self.entry_size)
        if self.nr_free_slots == 0 or front_free(&self.ring) == 0:
            raise OSError(errno.ENOSPC, "the ring is full")
        memcpy(p, <const char *>entry, min(<size_t>len(entry), <size_t>self.entry_size))
        self.ring.req_prod_pvt += 1
        self.nr_free_slots -= 1
        cdef slot *s = &self.slots[self.free_slots[self.nr_free_slots]]
        memset(s, 0, sizeof(s[0]))
        s.id, s.answer, s.operation, s.odd = id, answer, RAW, 1
        s.pages, s.descriptors, s.state = -1, -1, SLOT_PENDING
        self.nr_odd += 1
        self.odd_ids.add(id)
        return id

    def publish(self, req_prod=None, notify=None):
        """Show the backend what was put on the ring.  req_prod: write that index instead of the right one.
        notify: None as the ring asks, True always, False never."""
        self._usable()
        cdef bint asked = front_push(&self.ring)
        if req_prod is not None:
            xenvbd_store32(self.ring.sring, <uint32_t>(req_prod & 0xffffffff))
        self.pushes += 1
        if notify or (notify is None and asked):
            self.notify_backend()

    @property
    def req_prod(self):
        """The producer's index as it ought to be, u32."""
        return self.ring.req_prod_pvt

    def responses(self, count=None, double timeout=10):
        """Wait for answers to raw requests: so many, or all that are outstanding.  A list of Response.
        Raises OracleError, Unanswered."""
        cdef int rc, n, _i
        cdef uint64_t until = deadline(timeout)
        self._usable()
        while self._raw_in(SLOT_ANSWERED) < count if count is not None else self._raw_in(SLOT_PENDING):
            with nogil:
                n = self.wait(until)
                rc = n if n != 0 else self.blame(FAULT_UNANSWERED, -1, 0, 0, 0)
                for _i in range(n):
                    rc = self.take()
                    if rc < 0:
                        break
            self._must(rc)
        return self._collect()

    def _raw_in(self, int state):
        """How many raw requests are in that state."""
        return sum(1 for i in range(self.entries)
                   if self.slots[i].operation == RAW and self.slots[i].state == state)

    def _collect(self):
        out = []
        for i in range(self.entries):
            if self.slots[i].operation == RAW and self.slots[i].state == SLOT_ANSWERED:
                out.append(Response(self.slots[i].id, self.slots[i].answer, self.slots[i].status))
                self._must(self.release(i))
        return out

    def drain(self, double timeout=30):
        """Wait until nothing is outstanding; answers are checked, and dropped.  Raises OracleError, Unanswered."""
        cdef uint32_t i
        cdef int rc
        cdef uint64_t until = deadline(timeout)
        self._usable()
        for i in range(self.entries):
            if self.slots[i].state == SLOT_PENDING:
                with nogil:
                    rc = self.finish(i, until)
                self._must(rc)
            if self.slots[i].state == SLOT_ANSWERED:
                self._must(self.release(i))

    def close(self):
        """Close the event channel, take back the pages.  Nothing is waited for: see drain().  OracleError: a
        response nobody asked for is on the ring."""
        if self.channels is None:
            return
        cdef int stray = 0 if self.wrong.kind else self.pending()
        self.channels.close()
        self.channels = None
        self.ring_pages.unshare()
        self.ring_pages = None
        self.pool.close()
        if stray < 0:
            self._must(stray)

    def _usable(self):
        """Raise the fault that disabled the queue, or say that it is closed."""
        if self.disabled is not None:
            raise self.disabled
        if self.channels is None:
            raise OSError(errno.EBADF, "the queue is closed")

    def _must(self, int rc):
        """The gate: an OracleError for a fault, HypervisorError for another negative errno."""
        if rc >= 0:
            return
        if self.wrong.kind == FAULT_NONE:
            check(rc, "event channel")
        error = self.fault()
        if self.wrong.kind == FAULT_UNANSWERED:
            self.wrong.kind = FAULT_NONE        # the answer may still come
        else:
            self.disabled = error
        raise error

    def fault(self):
        """The error for what was found wrong; None if nothing was."""
        cdef fault *w = &self.wrong
        if w.kind == FAULT_NONE:
            return None
        facts = {"index": w.index, "id": w.id, "operation": w.operation, "expected": w.expected, "status": w.status,
                 "ids": self.outstanding}
        if w.kind == FAULT_OVERRUN:
            facts |= {"rsp_prod": w.sector, "rsp_cons": self.ring.rsp_cons, "req_prod": self.ring.req_prod_pvt}
        elif w.slot >= 0:
            facts |= {"sector": self.slots[w.slot].sector, "sectors": self.slots[w.slot].sectors}
        return oracle.fault(FAULTS[w.kind], facts, w.kind == FAULT_UNKNOWN and w.id in self.odd_ids)
