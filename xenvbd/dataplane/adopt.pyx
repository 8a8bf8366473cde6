"""What is left to do once ring and journal agree again (journal.pyx, queue.pyx): begin what was never answered.

It may be killed like any other: nothing here is written before it is done, but what serving writes as well.  The image
was locked before the ring was mapped, so nothing of the earlier worker can land on the disk any more.
"""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.device cimport device_failed
from xenvbd.dataplane.events cimport EVENT_FLUSH_FAILED, event_post
from xenvbd.dataplane.execute cimport follow_failure
from xenvbd.dataplane.intake cimport begin_again
from xenvbd.journal cimport journal_order

cdef enum:
    SLOTS = 1024                # more than a ring of XENVBD_MAX_RING_PAGES has entries
    EIO = 5


cdef void adopt(Queue q) noexcept nogil:
    cdef uint32_t order[SLOTS]
    cdef uint32_t nr = journal_order(q.log, order)
    if device_failed(q.device):
        # Held, and not begun: what was not flushed then would be taken for flushed now.
        q.live = nr
        follow_failure(q)
        event_post(&q.events, EVENT_FLUSH_FAILED, EIO, 0)
        return
    begin_again(q, order, nr)
    # For the responses that were published without it, and for what the guest notified nobody of.
    q.stats.events_out += 1
    q.evtchn.c_notify(q.port)
