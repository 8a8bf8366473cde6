"""Making, opening and looking into the in-flight journal of a ring.

It is a file on tmpfs, mapped, so that it outlives the worker; without a descriptor it is private memory, and
the ring cannot be adopted.
"""
import errno
import functools
import os
from collections import namedtuple

from libc.errno cimport errno as c_errno
from libc.stdlib cimport calloc, free
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset, strncmp

from xenvbd import __version__
from xenvbd.errors import ProtocolError
from xenvbd.ring cimport XENVBD_ABI_X86_32, request_to_python, ring_entries

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)

VERSION, OLDEST = XENVBD_JOURNAL_VERSION, XENVBD_JOURNAL_OLDEST
NO_NONCE = bytes(16)
BOOT_ID = "/proc/sys/kernel/random/boot_id"

Identity = namedtuple("Identity", "domid devid queue evtchn abi ring_refs image_dev image_ino capacity",
                      defaults=(0, 0, 0))
Identity.__doc__ = """What a journal belongs to: two journals with the same identity are of the same ring.

abi is a number of enum xenvbd_abi; evtchn the frontend's port; capacity in 512-byte sectors."""

Pending = namedtuple("Pending", "idx answered rsp_idx request")
Pending.__doc__ = """A slot in use: its ring index, whether a response stands at rsp_idx, a ring.Request."""


@functools.cache
def boot_id():
    """The kernel's random name for this boot, as bytes; read once, for a worker cannot open files."""
    with open(BOOT_ID, "rb") as file:
        return file.read().strip()


cdef size_t size_of(uint32_t entries):
    return XENVBD_JOURNAL_HEADER_SIZE + <size_t>entries * sizeof(xenvbd_journal_slot)


cdef uint32_t journal_reconcile(journal *j) noexcept nogil:
    cdef uint32_t i, left = 0
    cdef xenvbd_journal_slot *slot
    for i in range(j.header.nr_slots):
        slot = &j.slots[i]
        if not slot.valid:
            continue
        # A request may wait while 2^31 others pass it, so its age says nothing; a response is as fresh as its batch.
        if slot.idx == j.header.req_cons or (
                slot.answered and <int32_t>(slot.rsp_idx - j.header.rsp_prod) < 0):
            slot.valid = 0
        else:
            slot.answered = 0
            left += 1
        _compiler_barrier(_SEQ_CST)
    return left


cdef inline uint32_t age(const journal *j, uint32_t slot) noexcept nogil:
    return j.header.req_cons - 1 - j.slots[slot].idx


cdef uint32_t journal_order(const journal *j, uint32_t *order) noexcept nogil:
    cdef uint32_t i, at, n = 0
    for i in range(j.header.nr_slots):
        if j.slots[i].valid:
            at = n
            while at > 0 and age(j, order[at - 1]) < age(j, i):
                order[at] = order[at - 1]
                at -= 1
            order[at] = i
            n += 1
    return n


cdef class Journal:
    """Use Journal.create() or .open().  The mapping ends with the object; the descriptor is not kept."""

    def __init__(self):
        raise TypeError("use Journal.create() or Journal.open()")

    def __dealloc__(self):
        free(self.c.free)
        if self.c.header != NULL:
            munmap(self.c.header, self.length)

    @staticmethod
    def create(fd, identity, uint32_t entries, uint32_t index=0, bytes nonce=NO_NONCE):
        """A fresh journal for a ring of so many entries that starts at index.

        fd: a file, which is sized and overwritten; None: private memory.  nonce: 16 bytes, of this connection.
        Raises OSError (ENOSPC: no room on tmpfs, found here and not as SIGBUS later)."""
        cdef Journal self = Journal.__new__(Journal)
        if fd is not None:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, size_of(entries))
        map_journal(self, fd, entries)
        write_header(self.c.header, identity, entries, index)
        memcpy(self.c.header.nonce, <char *>nonce, sizeof(self.c.header.nonce))
        list_free_slots(self, entries)
        # Last: a file without it is no journal.
        _compiler_barrier(_SEQ_CST)
        self.c.header.magic = XENVBD_JOURNAL_MAGIC
        return self

    @staticmethod
    def open(fd, identity, uint32_t entries):
        """An earlier worker's journal of this ring, as far as numbers tell (see generation.pyx); of any version that
        can be read.  ProtocolError(ESTALE): it is another's."""
        cdef Journal self = Journal.__new__(Journal)
        cdef xenvbd_journal_header expected
        refuse_other_version(fd)
        if os.fstat(fd).st_size < size_of(entries):
            raise ProtocolError(errno.ESTALE, "the journal is shorter than its ring needs")
        map_journal(self, fd, entries)
        write_header(&expected, identity, entries, 0)
        mismatch = first_difference(self.c.header, &expected)
        if mismatch:
            raise ProtocolError(errno.ESTALE, f"the journal is not this ring's: {mismatch} differs")
        list_free_slots(self, entries)
        return self

    @staticmethod
    def begun(fd):
        """Whether the file is a journal, of whatever ring and version: without one nothing was ever consumed."""
        cdef uint64_t magic = XENVBD_JOURNAL_MAGIC
        return os.pread(fd, sizeof(magic), 0) == (<char *>&magic)[:sizeof(magic)]

    @property
    def version(self):
        """Of its layout: an older one has no nonce."""
        return self.c.header.version

    @property
    def nonce(self):
        """16 bytes; zeros in one that is older than nonces are."""
        return (<char *>self.c.header.nonce)[:sizeof(self.c.header.nonce)]

    def reconcile(self):
        """Make it what a later worker has to go on with; how many requests that is to begin again.

        ProtocolError(EPROTO): it contradicts itself."""
        return self.take_over()

    cdef uint32_t take_over(self) except? 0xFFFFFFFF:
        cdef xenvbd_journal_header *header = self.c.header
        cdef uint32_t left = journal_reconcile(&self.c), missing = header.req_cons - header.rsp_prod
        if left != missing:
            raise ProtocolError(errno.EPROTO, f"the journal has {left} requests that were not answered, "
                                f"and its indices say {missing}")
        list_free_slots(self, header.nr_slots)
        return left

    @property
    def failed(self):
        """A flush failed: nothing may be answered any more."""
        return bool(self.c.header.failed)

    @property
    def req_cons(self):
        """Requests below this ring index were consumed."""
        return self.c.header.req_cons

    @property
    def rsp_prod(self):
        """Responses below this ring index were published, or are being published."""
        return self.c.header.rsp_prod

    def pending(self):
        """The slots in use, by ring index: [Pending]."""
        cdef xenvbd_journal_slot *slot
        cdef uint32_t i
        found = []
        for i in range(self.c.header.nr_slots):
            slot = &self.c.slots[i]
            if slot.valid:
                request = request_to_python(&slot.request)
                found.append(Pending(slot.idx, bool(slot.answered), slot.rsp_idx, request))
        return sorted(found, key=lambda p: (p.idx - self.c.header.req_cons - 1) % (1 << 32))


cdef void map_journal(Journal self, object fd, uint32_t entries) except *:
    """Map the file, or private memory."""
    cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS if fd is None else MAP_SHARED
    cdef int file = -1 if fd is None else fd
    cdef void *memory = mmap(NULL, size_of(entries), PROT_READ | PROT_WRITE, flags, file, 0)
    if memory == MAP_FAILED:
        raise OSError(c_errno, f"cannot map the journal: {os.strerror(c_errno)}")
    self.length = size_of(entries)
    self.c.header = <xenvbd_journal_header *>memory
    self.c.slots = <xenvbd_journal_slot *>(<char *>memory + XENVBD_JOURNAL_HEADER_SIZE)


cdef void list_free_slots(Journal self, uint32_t entries) except *:
    """The stack of free slots is not kept in the file: it is what the valid marks say."""
    cdef uint32_t i
    if self.c.free == NULL:
        self.c.free = <uint32_t *>calloc(entries, sizeof(uint32_t))
        if self.c.free == NULL:
            raise MemoryError()
    self.c.nr_free = 0
    for i in range(entries):
        if not self.c.slots[entries - 1 - i].valid:
            self.c.free[self.c.nr_free] = entries - 1 - i
            self.c.nr_free += 1


cdef void write_header(xenvbd_journal_header *header, identity, uint32_t entries, uint32_t index) except *:
    """Everything but the magic."""
    cdef bytes boot = boot_id(), writer = __version__.encode()
    memset(header, 0, sizeof(header[0]))
    if not 1 <= len(identity.ring_refs) <= XENVBD_MAX_RING_PAGES:
        raise ValueError("a ring has 1 to 16 pages")
    memcpy(header.boot_id, <char *>boot, min(<size_t>len(boot), sizeof(header.boot_id) - 1))
    memcpy(header.writer, <char *>writer, min(<size_t>len(writer), sizeof(header.writer) - 1))
    header.version, header.nr_slots = XENVBD_JOURNAL_VERSION, entries
    header.domid, header.devid, header.queue = identity.domid, identity.devid, identity.queue
    header.evtchn, header.abi, header.ring_pages = identity.evtchn, identity.abi, len(identity.ring_refs)
    for i, gref in enumerate(identity.ring_refs):
        header.ring_ref[i] = gref
    header.image_dev, header.image_ino = identity.image_dev, identity.image_ino
    header.capacity = identity.capacity
    header.req_cons = header.rsp_prod = header.rsp_before = index


def version_of(fd):
    """(version, version of xenvbd that made it) of a journal; (0, "") if it is none."""
    cdef xenvbd_journal_header header
    cdef bytes raw = os.pread(fd, sizeof(header), 0)
    if len(raw) < <Py_ssize_t>sizeof(header) or not Journal.begun(fd):
        return 0, ""
    memcpy(&header, <char *>raw, sizeof(header))
    return header.version, header.writer[:sizeof(header.writer)].partition(b"\0")[0].decode("ascii", "replace")


def is_failed(path):
    """Whether the file of that name, if there is one, is a journal that says that a flush failed.

    OSError: it cannot be read."""
    cdef xenvbd_journal_header header
    try:
        with open(path, "rb") as file:
            raw = file.read(sizeof(header))
    except FileNotFoundError:
        return False
    if len(raw) < <Py_ssize_t>sizeof(header):
        return False
    memcpy(&header, <char *>raw, sizeof(header))
    return header.magic == XENVBD_JOURNAL_MAGIC and header.failed != 0


def unanswered(path):
    """The ring indices of the requests in the journal of that name: consumed, and not answered.  None of a version
    that cannot be read, or if there is no such journal."""
    cdef xenvbd_journal_header header
    cdef xenvbd_journal_slot slot
    cdef uint32_t i
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        raw = os.pread(fd, sizeof(header), 0)
        if len(raw) < <Py_ssize_t>sizeof(header):
            return []
        memcpy(&header, <char *>raw, sizeof(header))
        if header.magic != XENVBD_JOURNAL_MAGIC or not readable(header.version):
            return []
        if header.req_cons == header.rsp_prod:
            return []
        # No more than a ring can have: a worker may write what it likes there, and this is the manager's memory.
        slots = min(header.nr_slots, ring_entries(XENVBD_MAX_RING_PAGES, XENVBD_ABI_X86_32))
        raw = os.pread(fd, slots * sizeof(slot), XENVBD_JOURNAL_HEADER_SIZE)
    finally:
        os.close(fd)
    found = []
    for i in range(len(raw) // sizeof(slot)):
        memcpy(&slot, <char *>raw + i * sizeof(slot), sizeof(slot))
        if slot.valid:
            found.append(slot.idx)
    return found


def readable(version):
    """Whether a worker of this xenvbd can go on with a journal of that version."""
    return OLDEST <= version <= VERSION


cdef refuse_other_version(fd):
    version, writer = version_of(fd)
    if version and not readable(version):
        raise ProtocolError(errno.ESTALE, f"the journal's version differs: it is {version}, of xenvbd {writer}; this "
                            f"xenvbd {__version__} reads {OLDEST} to {VERSION}; go back to xenvbd {writer}, which can "
                            "take it over, and detach the disk before the upgrade")


cdef str first_difference(const xenvbd_journal_header *a, const xenvbd_journal_header *b):
    """The name of the first thing about two headers that differs, or ""; the capacity may have grown."""
    cdef uint32_t i
    if a.magic != XENVBD_JOURNAL_MAGIC:
        return "magic"
    if strncmp(a.boot_id, b.boot_id, sizeof(a.boot_id)):
        return "boot"
    if a.domid != b.domid or a.devid != b.devid or a.queue != b.queue:
        return "device"
    if a.nr_slots != b.nr_slots or a.abi != b.abi or a.evtchn != b.evtchn or a.ring_pages != b.ring_pages:
        return "ring"
    for i in range(b.ring_pages):
        if a.ring_ref[i] != b.ring_ref[i]:
            return "ring-ref"
    if a.image_dev != b.image_dev or a.image_ino != b.image_ino:
        return "image"
    return ""
