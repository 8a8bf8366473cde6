"""Setting up what an I/O thread needs, so that the thread itself allocates nothing; and taking it down."""
import errno
import os
import time

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from xenvbd.dataplane.arena cimport ARENA_NONE, Arena
from xenvbd.dataplane.device cimport MAX_QUEUES, Device, device_fail, device_failed
from xenvbd.dataplane.discards cimport DISCARD_FIRST
from xenvbd.dataplane.events cimport event, event_take, kick
from xenvbd.dataplane.kept cimport Kept, kept_drop_all, kept_drop_idle
from xenvbd.dataplane.tally cimport Tally
from xenvbd.dataplane.work cimport kept_page
from xenvbd.disk.disk cimport Disk, iovec
from xenvbd.disk.oplist cimport chain_begin
from xenvbd.generation cimport MEDDLED, OTHER, SAME, generation, generation_begin, generation_of
from xenvbd.hv.evtchn cimport EventChannels
from xenvbd.hv.grant cimport GrantTable
from xenvbd.hv.ops cimport Hypervisor
from xenvbd.journal cimport Journal
from xenvbd.ring cimport (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    XENVBD_SECTOR_SIZE,
    back_adopt,
    back_attach,
    back_mark,
    back_pending,
    back_shared_rsp_prod,
    ring_entries,
)

from xenvbd.dataplane.events import KINDS
from xenvbd.dataplane.nonce import new_nonce
from xenvbd.errors import ProtocolError, check
from xenvbd.journal import VERSION, Identity
from xenvbd.ring import ABIS

cdef extern from * nogil:
    enum:
        __ATOMIC_SEQ_CST
    uint32_t set_bits "__atomic_fetch_or"(uint32_t *p, uint32_t bits, int order) noexcept

KEPT_WRITES = {"report": 0, "enospc": KEEP_NO_SPACE, "stop": KEEP_NO_SPACE | KEEP_WRITES}
KEPT_READS = {"report": 0, "stop": KEEP_READS}
# With one nothing can come while it is used up by looking.  Asked now, for a worker's sandbox does not let it ask.
PROCESSORS = len(os.sched_getaffinity(0))
BIND_SECONDS = 5.0                  # the kernel may give back the port of a killed process a little late
NOT_PROVEN = ("nothing proves that the guest's ring is still the one that the dead worker served, for its journal is "
              "of xenvbd 0.1: the disk is held, and the journal kept; let the guest's driver begin again (shut it down "
              "or reboot it, or xl save and xl restore), or detach the disk")
MEDDLED_WITH = ("the guest has changed the indices of its ring while nobody served it: it is served no more until the "
                "guest's driver begins again")


cdef void order(Queue q, uint32_t bits) noexcept nogil:
    """Tell the queue's thread; from any thread."""
    set_bits(&q.orders, bits, __ATOMIC_SEQ_CST)
    kick(q.control)


cdef class Queue:
    """One ring, mapped, with everything that serves it; a thread is started by whoever made it (plane.py)."""

    def __cinit__(self):
        self.control = -1
        self.eager = True
        chain_begin(&self.ready)

    def __init__(self, uint32_t number, Hypervisor hypervisor, Disk disk, Device device, agreement, settings,
                 image, journal_fd, stats_fd, channel_fd, int events_fd, bint adopt=False):
        """agreement, settings: see plane.py; image: (dev, ino); adopt: the ring of a worker that has died or handed
        over.  Raises OSError and its subclasses; close() undoes what was done until then."""
        self.number, self.device, self.domid = number, device, agreement.domid
        self.events.fd = events_fd
        self.poll_ns = settings.poll_ns if PROCESSORS > 1 else 0
        self.poll_window = self.poll_ns
        self.idle_ns = int(settings.idle_seconds * 1e9)
        self.control = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.adopting = adopt and Journal.begun(journal_fd)
        self.set_limits(disk, settings, agreement)
        self.connect(hypervisor, agreement)
        self.open_journal(agreement, image, journal_fd)
        self.bind(hypervisor, agreement, channel_fd)
        self.allocate(disk, settings)
        self.keep_grants(disk, settings, agreement)
        self.tally = Tally(stats_fd)
        self.stats = self.tally.stats
        self.join_device()

    def __dealloc__(self):
        free(self.works)
        free(self.descriptors)
        free(self.batch)
        free(self.vectors)
        free(self.kept_pages)

    cdef set_limits(self, Disk disk, settings, agreement):
        size = disk.size if settings.size is None else min(disk.size, settings.size)
        self.limits.capacity = size // XENVBD_SECTOR_SIZE
        self.limits.block_mask = settings.logical_block_size // XENVBD_SECTOR_SIZE - 1
        self.limits.max_indirect = settings.max_indirect
        self.limits.unit_shift = agreement.sector_unit.bit_length() - 10
        self.limits.read_only = settings.read_only or disk.read_only
        self.limits.discard = settings.discard and disk.can_discard
        self.limits.barrier = settings.barrier
        self.discard_mask = disk.discard_unit // XENVBD_SECTOR_SIZE - 1
        self.discard_piece = DISCARD_FIRST
        self.keeps = KEPT_WRITES[settings.werror] | KEPT_READS[settings.rerror]

    cdef connect(self, Hypervisor hypervisor, agreement):
        """Map the ring."""
        part = agreement.queues[self.number]
        self.grants = GrantTable(hypervisor)
        self.mapping = self.grants.map(agreement.domid, part.ring_refs)
        self.ring.sring, self.ring.abi = self.mapping.address, ABIS[agreement.abi]
        self.ring.nr_ents = ring_entries(len(part.ring_refs), self.ring.abi)

    cdef open_journal(self, agreement, image, journal_fd):
        """A fresh one; or the one that the ring has, and with it the ring's indices."""
        cdef Journal file
        part = agreement.queues[self.number]
        pages = len(part.ring_refs)
        identity = Identity(agreement.domid, agreement.devid, self.number, part.event_channel, self.ring.abi,
                            tuple(part.ring_refs), image[0], image[1], self.limits.capacity)
        if self.adopting:
            file = Journal.open(journal_fd, identity, self.ring.nr_ents)
            self.adopting = self.is_of(file, pages)
            self.anew = not self.adopting
        if self.adopting:
            self.go_on(file, pages)
        else:
            self.attach_ring(pages, self.ring.abi)
            file = Journal.create(journal_fd, identity, self.ring.nr_ents, self.ring.rsp_prod, new_nonce())
            back_mark(&self.ring, file.c.header.nonce)
        self.journal_file, self.log = file, &file.c

    cdef bint is_of(self, Journal file, uint32_t pages) except -1:
        """Whether the ring is the one that the journal is of.  ProtocolError: nobody can tell, or the guest has meddled
        with it, or it is another and nothing may be answered any more."""
        cdef generation found
        back_attach(&self.ring, self.mapping.address, pages, self.ring.abi, file.c.header.rsp_prod)
        found = generation_of(&file.c, &self.ring, self.limits.unit_shift)
        if found == OTHER and file.c.header.failed:
            raise ProtocolError(errno.EIO, "a flush of the disk failed, and what was written before may be lost: "
                                "detach it, and attach it again when its storage is checked")
        if found not in (SAME, OTHER):
            raise ProtocolError(errno.ESTALE, MEDDLED_WITH if found == MEDDLED else NOT_PROVEN)
        return found == SAME

    cdef go_on(self, Journal file, uint32_t pages):
        """Where the worker that kept the journal left off."""
        cdef bytes nonce
        file.take_over()
        back_adopt(&self.ring, self.mapping.address, pages, self.ring.abi, file.c.header.req_cons,
                   file.c.header.rsp_prod)
        if file.version < VERSION:
            nonce = new_nonce()
            generation_begin(&file.c, &self.ring, nonce)

    cdef bind(self, Hypervisor hypervisor, agreement, channel_fd):
        """Bind the event channel, through the handle that was handed to us, or one of our own."""
        part = agreement.queues[self.number]
        self.evtchn = EventChannels(hypervisor, channel_fd)
        if channel_fd is None:
            self.evtchn.confine(agreement.domid)
        deadline = time.monotonic() + (BIND_SECONDS if self.adopting or self.anew else 0)
        rc = self.evtchn.c_bind_interdomain(agreement.domid, part.event_channel)
        while rc == -errno.EINVAL and time.monotonic() < deadline:
            time.sleep(0.002)
            rc = self.evtchn.c_bind_interdomain(agreement.domid, part.event_channel)
        self.port = check(rc, f"bind event channel {part.event_channel} of domain {agreement.domid}")

    cdef attach_ring(self, uint32_t pages, int abi):
        """Begin where the frontend says that responses are, as blkback does: a fresh ring says 0."""
        cdef uint32_t index = back_shared_rsp_prod(&self.ring)
        back_attach(&self.ring, self.mapping.address, pages, abi, index)
        if back_pending(&self.ring) < 0:
            raise ProtocolError(errno.EPROTO, "the ring claims more requests than it has entries")

    cdef allocate(self, Disk disk, settings):
        cdef uint32_t entries = self.ring.nr_ents, i
        cdef size_t room = max(1, settings.max_indirect)
        self.memory = Arena(settings.max_buffer_bytes)
        self.buffers = &self.memory.c
        self.works = <work *>calloc(entries, sizeof(work))
        self.descriptors = <blkif_request_segment *>calloc(entries * room, sizeof(blkif_request_segment))
        self.batch = <copy_batch *>calloc(1, sizeof(copy_batch))
        if self.works == NULL or self.descriptors == NULL or self.batch == NULL:
            raise MemoryError()
        self.batch.domid = self.domid
        for i in range(entries):
            self.works[i].slot, self.works[i].number = self.log.slots + i, i
            self.works[i].descriptors = self.descriptors + i * room
            self.works[i].op.owner = &self.works[i]
            self.works[i].buffer = ARENA_NONE
        self.allocate_vectors(1)
        self.disk = disk.queue(entries + 1)         # one more: the fdatasync that flushes share

    cdef keep_grants(self, Disk disk, settings, agreement):
        """No direct I/O on pages that are mapped from another domain (XSA-229): such a disk's data is copied."""
        cdef uint32_t entries = self.ring.nr_ents, i
        cdef size_t room = max(BLKIF_MAX_SEGMENTS_PER_REQUEST, settings.max_indirect)
        cdef bint wanted = agreement.persistent and disk.alignment == 1
        self.kept = Kept(self.grants, self.disk, agreement.domid, settings.max_persistent_grants if wanted else 0,
                         settings.persistent_seconds)
        if self.kept.cap == 0:
            return
        self.allocate_vectors(room)
        self.kept_pages = <kept_page **>calloc(entries * room, sizeof(kept_page *))
        if self.kept_pages == NULL:
            raise MemoryError()
        for i in range(entries):
            self.works[i].kept = self.kept_pages + i * room

    cdef allocate_vectors(self, size_t room):
        """Room for so many pieces of each request's data."""
        cdef uint32_t i
        free(self.vectors)
        self.vectors = <iovec *>calloc(self.ring.nr_ents * room, sizeof(iovec))
        if self.vectors == NULL:
            raise MemoryError()
        for i in range(self.ring.nr_ents):
            self.works[i].vectors = self.works[i].op.iov = self.vectors + i * room

    cdef join_device(self):
        cdef Device device = self.device
        if device.nr_peers == MAX_QUEUES:
            raise ProtocolError(errno.EINVAL, "more queues than a disk may have")
        device.peers[device.nr_peers].orders = &self.orders
        device.peers[device.nr_peers].control = self.control
        device.peers[device.nr_peers].log = self.log
        device.nr_peers += 1
        device.running += 1
        if self.log.header.failed or device_failed(device):
            device_fail(device)

    cdef int attach(self) noexcept nogil:
        """In the I/O thread: 0 or a negative errno."""
        cdef int rc = self.disk.attach()
        if rc >= 0:
            rc = self.disk.watch(self.evtchn.c_fd(), TAG_EVTCHN)
            if rc >= 0:
                rc = self.disk.watch(self.control, TAG_CONTROL)
            if rc < 0:
                self.disk.detach()
        return rc

    cdef void detach(self) noexcept nogil:
        """In the I/O thread, at its end: nothing is in flight."""
        self.disk.detach()
        kept_drop_all(self.kept)
        self.release_ring()

    cdef void release_ring(self) noexcept nogil:
        """Let go of the guest: unbind, unmap what nothing writes to.  Doing it again does nothing."""
        kept_drop_idle(self.kept)
        if self.mapping.address != NULL:
            self.evtchn.c_unbind(self.port)
            self.mapping.c_release()

    def close(self):
        """Give everything back.  The thread must have ended, or never begun.  Doing it again does nothing."""
        if self.evtchn is not None:
            self.evtchn.close()
        if self.grants is not None:
            self.grants.close()
        self.disk = None
        if self.control >= 0:
            os.close(self.control)
            self.control = -1

    def order(self, uint32_t bits):
        """Tell the thread: ORDERS, added up."""
        order(self, bits)

    def take_events(self):
        """What the thread has had to tell since the last call: [(kind, errno, detail)], and how many got lost."""
        cdef event e
        found = []
        while event_take(&self.events, &e):
            found.append((KINDS[e.kind], e.error, e.detail))
        return found, self.events.dropped

    def statistics(self):
        """The bytes of struct xenvbd_stats as they are now."""
        return self.tally.raw()

    @property
    def entries(self):
        """Requests the ring has room for."""
        return self.ring.nr_ents

    @property
    def persistent(self):
        """Whether pages of the guest stay mapped here."""
        return self.kept.cap > 0


STOP, ABANDON, RESUME, HAND_OVER = ORDER_STOP, ORDER_ABANDON, ORDER_RESUME, ORDER_HAND_OVER
