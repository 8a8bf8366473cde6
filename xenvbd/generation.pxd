"""Whether a ring in shared memory is still the one that a journal is of: grant references and a port may be equal in
the next.  include/xenvbd/journal.h has what is compared."""
from libc.stdint cimport uint8_t

from xenvbd.journal cimport journal
from xenvbd.ring cimport back_ring

cdef enum generation:
    SAME = 0
    OTHER = 1           # it was begun anew since: nothing of the journal concerns it
    MEDDLED = 2         # it is the same, and the guest has changed indices that are ours, or that it cannot take back
    UNPROVEN = 3        # it may be either


# ring: attached.  unit_shift: of request_limits, with which the journal's requests were scaled.
cdef generation generation_of(const journal *j, const back_ring *ring, uint8_t unit_shift) noexcept nogil
# Let a journal of version 1, which is the ring's, have a nonce: 16 bytes.
cdef void generation_begin(journal *j, back_ring *ring, const unsigned char *nonce) noexcept nogil
