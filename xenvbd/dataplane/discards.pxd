"""Discards: in pieces, few at once for all queues of a disk, and never in the way of the end."""
from xenvbd.dataplane.queue cimport Queue
from xenvbd.dataplane.work cimport work

cdef enum:
    # Sectors of one piece: a file system keeps its locks while it does one, and other requests wait for them.
    DISCARD_LEAST = (1 << 20) // 512
    DISCARD_FIRST = (16 << 20) // 512
    DISCARD_MOST = (64 << 20) // 512

# A discard that was found good: it begins when its turn comes.
cdef void discard_admit(Queue q, work *w) noexcept nogil
# Begin what may begin now; to be called each pass in which there is anything.
cdef void discards_proceed(Queue q) noexcept nogil
# The disk has done a piece, or has failed to.
cdef void discard_settle(Queue q, work *w) noexcept nogil
# That piece was done well: the next, or the end.
cdef void discard_advance(Queue q, work *w) noexcept nogil
# The ring is to be closed: answer all that waits, for a discard promises nothing.
cdef void discards_cut(Queue q) noexcept nogil
# Nothing more of this queue is begun: the others of the disk can have its turns.
cdef void discards_quit(Queue q) noexcept nogil
