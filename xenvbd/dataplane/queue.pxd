"""What one ring's I/O thread owns.  Nothing in here is touched by another thread while it runs, but `orders`."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from xenvbd.dataplane.arena cimport Arena, arena
from xenvbd.dataplane.copies cimport copy_batch
from xenvbd.dataplane.device cimport Device
from xenvbd.dataplane.events cimport event_list
from xenvbd.dataplane.kept cimport Kept
from xenvbd.dataplane.tally cimport Tally, xenvbd_stats
from xenvbd.dataplane.work cimport kept_page, work, work_list
from xenvbd.disk.disk cimport Disk, DiskQueue, iovec
from xenvbd.disk.oplist cimport op_chain
from xenvbd.hv.evtchn cimport EventChannels
from xenvbd.hv.grant cimport GrantTable, Mapping
from xenvbd.hv.ops cimport Hypervisor
from xenvbd.journal cimport Journal, journal
from xenvbd.request cimport request_limits
from xenvbd.ring cimport back_ring, blkif_request_segment

cdef enum queue_order:
    # Bits that other threads set in Queue.orders, followed by a kick of Queue.control.
    ORDER_STOP = 1          # answer what the guest has posted, then end
    ORDER_ABANDON = 2       # with STOP: the frontend is gone; let go of the ring now, answer nothing
    ORDER_RESUME = 4        # try again what there was no room for
    ORDER_WAKE = 8          # another queue of the disk has changed something: look
    ORDER_HAND_OVER = 16    # with STOP: leave in the journal what the disk has not got, for a later worker

cdef enum queue_silence:
    # Why the ring is not written to any more.
    SPEAKING = 0
    SILENT_QUARANTINE = 1
    SILENT_FAILED = 2
    SILENT_ABANDONED = 3

cdef enum keep_policy:
    # What failed and is not answered but kept: bits of Queue.keeps.
    KEEP_NO_SPACE = 1       # writes without room
    KEEP_WRITES = 2
    KEEP_READS = 4

cdef enum watch_tag:
    TAG_EVTCHN = 0
    TAG_CONTROL = 1


cdef class Queue:
    cdef readonly uint32_t number
    cdef uint32_t domid
    # what it works with
    cdef EventChannels evtchn
    cdef GrantTable grants
    cdef Mapping mapping
    cdef Journal journal_file
    cdef Tally tally
    cdef Arena memory
    cdef Kept kept                  # the guest's pages that stay mapped
    cdef DiskQueue disk
    cdef Device device
    cdef back_ring ring
    cdef journal *log
    cdef xenvbd_stats *stats
    cdef arena *buffers
    cdef request_limits limits
    cdef uint32_t keeps             # bits of keep_policy
    cdef copy_batch *batch
    cdef work *works
    cdef blkif_request_segment *descriptors
    cdef iovec *vectors
    cdef kept_page **kept_pages
    cdef event_list events
    cdef uint32_t port
    cdef readonly int control       # eventfd
    cdef uint32_t orders            # atomic: bits of queue_order
    # where the requests in flight are; each in one list, or with the disk
    cdef op_chain ready             # what the disk gets at the end of this pass
    cdef work_list describing       # indirect: their pages of segments are to be copied
    cdef work_list starving         # there was no buffer for them
    cdef work_list gathering        # writes whose data is to be copied in
    cdef work_list scattering       # reads whose data is to be copied out
    cdef work_list flush_waiting
    cdef work_list flushing         # covered by the fdatasync that runs
    cdef work_list discards
    cdef work_list held             # writes there is no room for on the storage: tried again each second
    cdef work_list stuck            # what failed otherwise and is kept: tried again when told to
    cdef work_list finished         # to be answered
    cdef work *barrier              # nothing is consumed while there is one
    cdef work flush                 # not a request's: the fdatasync that flushes share
    cdef bint flush_running
    cdef uint32_t discards_running
    cdef uint32_t discards_resting  # turns that are kept though nothing runs
    cdef uint64_t discard_at        # ns: until then
    cdef uint64_t discard_piece     # sectors
    cdef uint64_t discard_mask      # sectors that the storage discards together, less one
    # how many they are
    cdef uint32_t live              # consumed and not answered
    cdef uint32_t owned             # of them, operations that the disk has
    cdef bint unstarted             # there are some since the last enter() or sleep()
    cdef uint32_t bad               # consumed and refused, of this pass
    # how the thread is to go on
    cdef int silence                # enum queue_silence
    cdef bint stopping
    cdef bint last_look             # what was posted before it stops is consumed: up to
    cdef uint32_t last              # this ring index
    cdef bint handing_over
    cdef bint adopting              # the ring was served before: begin with what the journal has
    cdef readonly bint anew         # it was to be adopted, and is another than the journal was of: begun afresh
    cdef bint masked                # an event came, and the port is masked until the work is done
    cdef bint rung                  # an event came, and the ring has not been looked at since
    cdef bint more                  # the ring had more than this pass took
    cdef bint eager                 # operations finish as soon as they are started
    cdef bint woken                 # the guest slept when it got its last answers
    cdef int registered             # 1: the engine has the buffers pinned; < 0: it would not take them
    cdef uint32_t rests
    cdef uint32_t nr_held           # for want of room, or being tried again after that
    cdef uint32_t nr_stuck          # the same, for other errors
    cdef uint64_t busy              # requests since the buffers were given back to the kernel
    cdef uint32_t fruitless         # passes in a row that found nothing to do for the guest's good
    cdef uint64_t nap_until         # ns: do not look at the ring before
    cdef uint64_t retry_at          # ns: when to try again what is held
    cdef uint64_t poll_ns           # at most so long are requests looked for before sleeping; 0: not at all
    cdef readonly uint64_t poll_window      # how long it pays just now
    cdef uint32_t poll_rests        # sleeps until it is tried again
    cdef int64_t idle_ns            # after so long without a request the buffers' memory goes back to the kernel

    # The thread: attach() to the disk and the descriptors, serve until told to stop, detach().
    cdef int attach(self) noexcept nogil
    cdef void detach(self) noexcept nogil
    cdef void release_ring(self) noexcept nogil
    cdef set_limits(self, Disk disk, settings, agreement)
    cdef connect(self, Hypervisor hypervisor, agreement)
    cdef attach_ring(self, uint32_t pages, int abi)
    cdef open_journal(self, agreement, image, journal_fd)
    cdef bint is_of(self, Journal file, uint32_t pages) except -1
    cdef go_on(self, Journal file, uint32_t pages)
    cdef bind(self, Hypervisor hypervisor, agreement, channel_fd)
    cdef allocate(self, Disk disk, settings)
    cdef allocate_vectors(self, size_t room)
    cdef keep_grants(self, Disk disk, settings, agreement)
    cdef join_device(self)


cdef void order(Queue q, uint32_t bits) noexcept nogil
