"""The in-flight journal of one ring (include/xenvbd/journal.h): its slots are where requests are copied to.

The stores that make it survive a kill are here, in the order that journal.h gives.  A killed process stops
between two instructions, so a compiler barrier is all that keeps the order.
"""
from libc.stdint cimport uint32_t, uint64_t

from xenvbd.ring cimport xenvbd_request

cdef extern from *:
    enum:
        _SEQ_CST "__ATOMIC_SEQ_CST"
    void _compiler_barrier "__atomic_signal_fence"(int order) noexcept nogil

cdef extern from "xenvbd/journal.h" nogil:
    enum:
        XENVBD_JOURNAL_VERSION
        XENVBD_JOURNAL_OLDEST
        XENVBD_MAX_RING_PAGES
        XENVBD_JOURNAL_HEADER_SIZE
    uint64_t XENVBD_JOURNAL_MAGIC
    struct xenvbd_journal_slot:
        uint32_t valid
        uint32_t idx
        uint32_t answered
        uint32_t rsp_idx
        xenvbd_request request
    struct xenvbd_journal_header:
        uint64_t magic
        uint32_t version
        uint32_t nr_slots
        char boot_id[40]
        uint32_t domid
        uint32_t devid
        uint32_t queue
        uint32_t evtchn
        uint32_t abi
        uint32_t ring_pages
        uint32_t ring_ref[16]
        uint64_t image_dev
        uint64_t image_ino
        uint64_t capacity
        uint32_t failed
        uint32_t req_cons
        uint32_t rsp_prod
        char writer[24]
        uint32_t rsp_before
        uint32_t nonce[4]

cdef struct journal:
    xenvbd_journal_header *header
    xenvbd_journal_slot *slots
    uint32_t *free              # a stack of slot numbers
    uint32_t nr_free


cdef inline uint32_t journal_take(journal *j) noexcept nogil:
    """A free slot's number.  There is one for each ring entry, and no more requests than entries can be in flight."""
    j.nr_free -= 1
    return j.free[j.nr_free]


cdef inline void journal_consumed(journal *j, xenvbd_journal_slot *slot, uint32_t idx) noexcept nogil:
    """slot.request holds the request of this ring index: from here on it is ours to answer."""
    slot.idx = idx
    slot.answered = 0
    _compiler_barrier(_SEQ_CST)
    slot.valid = 1
    _compiler_barrier(_SEQ_CST)
    j.header.req_cons = idx + 1
    _compiler_barrier(_SEQ_CST)


cdef inline void journal_answered(xenvbd_journal_slot *slot, uint32_t rsp_idx) noexcept nogil:
    """The response stands in the ring at rsp_idx, not published yet."""
    slot.rsp_idx = rsp_idx
    _compiler_barrier(_SEQ_CST)
    slot.answered = 1


cdef inline void journal_publish(journal *j, uint32_t rsp_prod) noexcept nogil:
    """Right before the ring's rsp_prod is stored."""
    _compiler_barrier(_SEQ_CST)
    j.header.rsp_before = j.header.rsp_prod
    _compiler_barrier(_SEQ_CST)
    j.header.rsp_prod = rsp_prod
    _compiler_barrier(_SEQ_CST)


cdef inline void journal_release(journal *j, xenvbd_journal_slot *slot, uint32_t number) noexcept nogil:
    """The response was published: the slot of that number is free."""
    _compiler_barrier(_SEQ_CST)
    slot.valid = 0
    j.free[j.nr_free] = number
    j.nr_free += 1


# After the death of the worker that kept it: let go of what it had answered, forget what it had only begun to consume
# or to answer.  Done again, it changes nothing.  How many requests are to be begun again.
cdef uint32_t journal_reconcile(journal *j) noexcept nogil
# The slots in use, the one consumed first first; how many they are.
cdef uint32_t journal_order(const journal *j, uint32_t *order) noexcept nogil


cdef inline void journal_fail(journal *j) noexcept nogil:
    """A flush failed: stored before anything else happens."""
    j.header.failed = 1
    _compiler_barrier(_SEQ_CST)


cdef class Journal:
    """The mapping of a journal; see journal.pyx."""
    cdef journal c
    cdef size_t length
    # The slots as a later worker has to take them; their number.  ProtocolError: the journal contradicts itself.
    cdef uint32_t take_over(self) except? 0xFFFFFFFF
