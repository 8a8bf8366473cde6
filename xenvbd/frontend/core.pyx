"""The frontend's data path without Python: requests out of a pool of pages, and an oracle over every response.

What blkfront checks is checked here: that an id is pending, that the operation is the request's (for INDIRECT the
inner one), that there are no more responses than requests.  And what it cannot: that bytes outside the segments
were left alone.  The first fault is noted and stays: the disk is "disabled for further use", as Linux says.
"""
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSPC, EPROTO, errno as c_errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from xenvbd.ring cimport (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_OKAY,
    front_final_check,
    front_free,
    front_init,
    front_pending,
    front_push,
    front_put,
    front_take,
    xenvbd_request,
)

from xenvbd.errors import check
from xenvbd.ring import ABIS

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, unsigned long nfds, const timespec *timeout, const void *sigmask)
    enum:
        POLLIN

cdef extern from * nogil:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define xenvbd_relax() __builtin_ia32_pause()
    #else
    #define xenvbd_relax() __asm__ volatile("" ::: "memory")
    #endif
    static inline uint32_t xenvbd_load32(const void *p)
    { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
    """
    void xenvbd_relax()
    uint32_t xenvbd_load32(const void *p)

cdef enum:
    PAGE_SECTORS = 8


cdef uint64_t now_ns() noexcept nogil:
    """CLOCK_MONOTONIC in nanoseconds."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef uint64_t deadline(double seconds) noexcept nogil:
    return now_ns() + <uint64_t>(max(seconds, 0) * 1e9)


cdef class Peer:
    """The base does nothing."""

    cdef int serve(self) noexcept nogil:
        """Do what there is to do on the ring, without blocking.  0 or a negative errno."""
        return 0


cdef class Core:
    """Core(hypervisor, domid, order, abi, pages, fresh_grants, index): the parameters of FrontQueue."""

    def __cinit__(self, Hypervisor hypervisor, uint32_t domid, unsigned order=0, str abi="native",
                  uint32_t pages=256, bint fresh_grants=False, uint32_t index=0):
        if abi not in ABIS or order > 10:
            raise ValueError(f"no ring of 2**{order} pages in ABI {abi!r}")
        self.domid, self.abi, self.max_segments = domid, abi, BLKIF_MAX_SEGMENTS_PER_REQUEST
        self.channels = EventChannels(hypervisor)
        self.pool = PagePool(hypervisor, domid, fresh_grants)
        self.ring_pages = self.pool.sharer.share(domid, 1 << order)
        front_init(&self.ring, self.ring_pages.address, 1 << order, ABIS[abi], index)
        self.entries = self.ring.nr_ents
        self._make_slots()
        self.port = check(self.channels.c_bind_unbound(domid), "bind an event channel")
        self.pool.reserve(pages)

    def _make_slots(self):
        cdef uint32_t i
        self.slots = <slot *>calloc(self.entries, sizeof(slot))
        self.free_slots = <uint16_t *>calloc(self.entries, sizeof(uint16_t))
        if self.slots is NULL or self.free_slots is NULL:
            raise MemoryError()
        for i in range(self.entries):
            self.slots[i].pages = self.slots[i].descriptors = -1
            self.free_slots[i] = <uint16_t>(self.entries - 1 - i)
        self.nr_free_slots = self.entries

    def __dealloc__(self):
        free(self.slots)
        free(self.free_slots)

    # Requests

    cdef int begin(self, uint8_t operation, uint64_t sector, uint32_t sectors, uint8_t skew) noexcept nogil:
        cdef uint32_t n = 0 if operation == BLKIF_OP_DISCARD or sectors == 0 else (
            skew + sectors + PAGE_SECTORS - 1) // PAGE_SECTORS
        cdef bint indirect = n > BLKIF_MAX_SEGMENTS_PER_REQUEST or (n > 0 and self.always_indirect)
        cdef int index
        if n > self.max_segments or n > MAX_SEGMENTS or skew >= PAGE_SECTORS:
            return -EINVAL
        if self.nr_free_slots == 0 or front_free(&self.ring) == 0 or n + indirect > self.pool.nr_free:
            return -EAGAIN
        index = self.free_slots[self.nr_free_slots - 1]
        cdef slot *s = &self.slots[index]
        if not self.equip(s, n, indirect, operation == BLKIF_OP_READ):
            return -ENOSPC
        self.nr_free_slots -= 1
        s.operation = s.answer = operation
        s.sector, s.sectors, s.skew, s.flag = sector, sectors, skew, 0
        s.version, s.odd = 0, 0
        self.sequence += 1
        s.id = 0 if self.anonymous else self.sequence << 16 | <uint64_t>index
        if operation == BLKIF_OP_READ and not (self.unmarked and in_whole_pages(s)):
            self.mark(s)
        return index

    cdef bint equip(self, slot *s, uint32_t n, bint indirect, bint writable) noexcept nogil:
        """Give a slot its pages."""
        s.nr_pages, s.pages, s.descriptors = <uint16_t>n, -1, -1
        if n:
            s.pages = self.pool.get(n, writable)
            if s.pages < 0:
                return False
        if indirect:
            s.descriptors = self.pool.get(1, False)
            if s.descriptors < 0:
                self.pool.put(s.pages, n)
                return False
        return True

    cdef bint next_span(self, slot *s, span *at) noexcept nogil:
        """Step to the part of the request in its next page; *at is all zero for the first.  False: no more."""
        cdef uint32_t left
        at.page = &self.pool.pages[s.pages if at.page is NULL else at.page.next] if (
            s.pages >= 0 and (at.page is NULL or at.page.next >= 0)) else NULL
        if at.page is NULL:
            return False
        at.done += at.count
        left = s.sectors - at.done
        at.first = s.skew if at.done == 0 else 0
        at.count = min(left, PAGE_SECTORS - at.first)
        at.words = <uint64_t *>(at.page.address + at.first * 512)
        return True

    cdef void mark(self, slot *s) noexcept nogil:
        """Before a READ: a word at both ends of every sector of the pages, so that what is not overwritten shows."""
        cdef int32_t at = s.pages
        cdef uint64_t *words
        cdef int i
        while at >= 0:
            words = <uint64_t *>self.pool.pages[at].address
            for i in range(PAGE_SECTORS):
                words[64 * i] = words[64 * i + 63] = ~s.id
            at = self.pool.pages[at].next

    cdef bint spared(self, slot *s) noexcept nogil:
        """After a READ: whether the sectors outside the segments still carry their marks."""
        cdef span at
        cdef uint32_t i
        cdef uint64_t *words
        if in_whole_pages(s):
            return True
        memset(&at, 0, sizeof(at))
        while self.next_span(s, &at):
            words = <uint64_t *>at.page.address
            for i in range(<uint32_t>PAGE_SECTORS):
                if (i < at.first or i >= at.first + at.count) and (
                        words[64 * i] != ~s.id or words[64 * i + 63] != ~s.id):
                    return False
        return True

    cdef void segments(self, slot *s, blkif_request_segment *out) noexcept nogil:
        cdef span at
        cdef uint32_t i = 0
        memset(&at, 0, sizeof(at))
        while self.next_span(s, &at):
            out[i].gref = at.page.gref
            out[i].first_sect = <uint8_t>(at.first >> self.segment_shift)
            out[i].last_sect = <uint8_t>(((at.first + at.count) >> self.segment_shift) - 1)
            i += 1

    cdef void put(self, int index) noexcept nogil:
        cdef slot *s = &self.slots[index]
        cdef xenvbd_request r
        memset(&r, 0, sizeof(r))
        r.operation, r.id, r.handle = s.operation, s.id, self.handle
        r.sector, r.nr_segments = s.sector >> self.number_shift, s.nr_pages
        if s.operation == BLKIF_OP_DISCARD:
            r.sub, r.u.nr_sectors = s.flag, s.sectors >> self.number_shift
        elif s.descriptors >= 0:
            r.operation, r.sub = BLKIF_OP_INDIRECT, s.operation
            r.u.indirect_gref[0] = self.pool.pages[s.descriptors].gref
            self.segments(s, <blkif_request_segment *>self.pool.pages[s.descriptors].address)
        else:
            self.segments(s, r.u.seg)
        front_put(&self.ring, &r)
        s.state = SLOT_PENDING
        self.nr_odd += self.anonymous
        s.odd = self.anonymous

    cdef int push(self) noexcept nogil:
        self.pushes += 1
        return self.notify() if front_push(&self.ring) else 0

    cdef int notify(self) noexcept nogil:
        self.events_out += 1
        return self.peer.serve() if self.peer is not None else self.channels.c_notify(self.port)

    # Responses

    cdef int pending(self) noexcept nogil:
        cdef int n = front_pending(&self.ring)
        if n >= 0 or self.wrong.kind != FAULT_NONE:
            return n
        self.wrong.sector = xenvbd_load32(<char *>self.ring.sring + 8)      # rsp_prod
        return self.blame(FAULT_OVERRUN, -1, 0, 0, 0)

    cdef int find(self, uint64_t id, uint8_t operation) noexcept nogil:
        """The pending slot with that id, of several the one with that operation; -1: none."""
        cdef uint32_t i = <uint32_t>(id & 0xffff)
        cdef int found = -1
        if i < self.entries and self.slots[i].state == SLOT_PENDING and self.slots[i].id == id:
            found = <int>i
        if self.nr_odd == 0 or (found >= 0 and self.slots[found].answer == operation):
            return found
        for i in range(self.entries):
            if self.slots[i].state == SLOT_PENDING and self.slots[i].id == id:
                if found < 0 or self.slots[i].answer == operation:
                    found = <int>i
        return found

    cdef int take(self) noexcept nogil:
        cdef uint64_t id = 0
        cdef uint8_t operation = 0
        cdef int16_t status = 0
        front_take(&self.ring, &id, &operation, &status)
        self.wrong.id = id
        cdef int index = self.find(id, operation)
        if index < 0:
            return self.blame(FAULT_DUPLICATE if self.given_out(id) else FAULT_UNKNOWN, -1, operation, 0, status)
        cdef slot *s = &self.slots[index]
        if operation != s.answer:
            return self.blame(FAULT_OPERATION, index, operation, s.answer, status)
        if status > BLKIF_RSP_OKAY or status < BLKIF_RSP_EOPNOTSUPP:
            return self.blame(FAULT_STATUS, index, operation, s.answer, status)
        s.status, s.state = status, SLOT_ANSWERED
        return index

    cdef bint given_out(self, uint64_t id) noexcept nogil:
        return (id & 0xffff) < self.entries and 0 < id >> 16 <= self.sequence

    cdef int blame(self, int kind, int index, int operation, int expected, int status) noexcept nogil:
        """Note a fault, the first one; -EPROTO."""
        if self.wrong.kind == FAULT_NONE:
            self.wrong.kind, self.wrong.slot, self.wrong.index = kind, index, self.ring.rsp_cons - 1
            self.wrong.operation, self.wrong.expected, self.wrong.status = operation, expected, status
            if index >= 0:
                self.wrong.id = self.slots[index].id
        return -EPROTO

    cdef int drain_events(self) noexcept nogil:
        cdef int port = 0
        while True:
            port = self.channels.c_pending()
            if port < 0:
                return 0 if port == -EAGAIN else port
            self.events_in += <uint32_t>port == self.port
            self.channels.c_unmask(<uint32_t>port)

    cdef int sleep(self, uint64_t until) noexcept nogil:
        """Until the event channel fires, or the time comes.  0 or a negative errno."""
        cdef pollfd p
        cdef timespec left
        cdef uint64_t now = now_ns(), ns = until - now if until > now else 0
        p.fd, p.events, p.revents = self.channels.c_fd(), POLLIN, 0
        left.tv_sec, left.tv_nsec = <long>(ns // 1000000000), <long>(ns % 1000000000)
        self.wakeups += 1
        if ppoll(&p, 1, &left, NULL) < 0 and c_errno != EINTR:
            return -c_errno
        return self.drain_events()

    cdef int wait(self, uint64_t until) noexcept nogil:
        cdef int n, rc = 0
        while True:
            if self.peer is not None:
                rc = self.peer.serve()
            n = self.pending()
            if n != 0 or rc < 0:
                return n if n != 0 else rc
            if now_ns() >= until:
                return 0
            if self.spin or self.peer is not None:
                self.linger()
            elif not front_final_check(&self.ring):
                rc = self.sleep(until)

    cdef void linger(self) noexcept nogil:
        """Look at the ring for a while without looking at the clock."""
        cdef int _i
        for _i in range(200):
            if front_pending(&self.ring) != 0:
                return
            xenvbd_relax()

    cdef int release(self, int index) noexcept nogil:
        cdef slot *s = &self.slots[index]
        cdef int rc = 0, rc2 = 0
        if s.nr_pages:
            rc = self.pool.put(s.pages, s.nr_pages)
        if s.descriptors >= 0:
            rc2 = self.pool.put(s.descriptors, 1)
        self.nr_odd -= s.odd
        s.pages, s.descriptors, s.nr_pages, s.odd, s.state = -1, -1, 0, 0, SLOT_FREE
        self.free_slots[self.nr_free_slots] = <uint16_t>index
        self.nr_free_slots += 1
        rc = rc if rc < 0 else rc2
        return rc if rc >= 0 else self.blame(FAULT_SYSTEM, index, s.operation, 0, rc)

    # Data

    cdef void fill(self, int index, Shadow shadow) noexcept nogil:
        cdef slot *s = &self.slots[index]
        cdef span at
        memset(&at, 0, sizeof(at))
        while self.next_span(s, &at):
            shadow.fill(at.words, s.sector + at.done, at.count, s.version)

    cdef int64_t verify(self, int index, Shadow shadow) noexcept nogil:
        cdef slot *s = &self.slots[index]
        cdef int64_t bad
        cdef span at
        memset(&at, 0, sizeof(at))
        while self.next_span(s, &at):
            bad = shadow.check(at.words, s.sector + at.done, at.count)
            if bad >= 0:
                return <int64_t>(s.sector + at.done) + bad
        return -1

    cdef void settle(self, int index, Shadow shadow) noexcept nogil:
        cdef slot *s = &self.slots[index]
        cdef span at
        memset(&at, 0, sizeof(at))
        while self.next_span(s, &at):
            shadow.settle(at.words, s.sector + at.done, at.count)

    cdef void copy_in(self, int index, const char *data) noexcept nogil:
        cdef span at
        memset(&at, 0, sizeof(at))
        while self.next_span(&self.slots[index], &at):
            memcpy(at.words, data + at.done * 512, at.count * 512)

    cdef void copy_out(self, int index, char *data) noexcept nogil:
        cdef span at
        memset(&at, 0, sizeof(at))
        while self.next_span(&self.slots[index], &at):
            memcpy(data + at.done * 512, at.words, at.count * 512)

    cdef int finish(self, int index, uint64_t until) noexcept nogil:
        """Take responses until that slot's has come.  0 or a negative errno; -EPROTO: a fault."""
        cdef int n, _i, rc
        while self.slots[index].state != SLOT_ANSWERED:
            n = self.wait(until)
            if n == 0:
                return self.blame(FAULT_UNANSWERED, index, 0, 0, 0)
            for _i in range(n):
                rc = self.take()
                if rc < 0:
                    return rc
            if n < 0:
                return n
        if self.slots[index].operation == BLKIF_OP_READ and not self.spared(&self.slots[index]):
            return self.blame(FAULT_DATA, index, 0, 0, 0)
        return 0
