"""What the guest knows of its disk: a pattern for each version of each sector, and which versions may be read."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    SECTOR = 512
    WORDS = 64          # of 64 bits in a sector

cdef enum shadow_flags:
    # Flags of sector_state, beside the versions.
    SHADOW_UNKNOWN = 1  # anything may be read
    SHADOW_ZERO = 2     # zeros may be read as well: a discard (blkif.h: a hint)
    SHADOW_LITERAL = 4  # not a pattern; `stable` is the hash of the bytes

cdef enum:
    CHUNK = 2048        # sectors

cdef enum chunk_state:
    UNTOUCHED = 0       # as the disk was: none of its states is in memory
    TOUCHED = 1
    FORGOTTEN = 2       # anything may be read anywhere in it: none of its states is in memory
    OPENING = 3         # from FORGOTTEN to TOUCHED, by one of the queues' threads

cdef struct sector_state:
    uint64_t stable     # the lowest version that may be read; 0: never written
    uint64_t latest     # the highest version that was ever sent, << 3 | flags


cdef class Shadow:
    """One disk's shadow.  blank: a sector never written reads as zeros; otherwise it may hold anything."""
    cdef sector_state *map
    cdef uint8_t *chunks                # a chunk_state each
    cdef size_t room                    # sectors that the map has room for
    cdef readonly uint64_t sectors
    cdef readonly uint64_t seed
    cdef readonly uint64_t version      # the last one given out
    cdef readonly bint blank
    cdef dict literals

    cdef sector_state at(self, uint64_t sector) noexcept nogil
    # The state of a sector, to be changed.
    cdef sector_state *touch(self, uint64_t sector) noexcept nogil
    cdef void open_chunk(self, uint64_t chunk) noexcept nogil
    # A write goes out: the next version, which may be read from now on.  commit(): it was answered OKAY, and nothing
    # else was in flight on these sectors.  A write that failed is never committed: old and new may be read.
    cdef uint64_t begin(self, uint64_t sector, uint64_t count) noexcept nogil
    cdef void commit(self, uint64_t sector, uint64_t count, uint64_t version) noexcept nogil
    cdef void discard(self, uint64_t sector, uint64_t count) noexcept nogil
    cdef void forget(self, uint64_t sector, uint64_t count) noexcept nogil
    # The bytes of these sectors at that version.
    cdef void fill(self, void *data, uint64_t sector, uint64_t count, uint64_t version) noexcept nogil
    cdef bint acceptable(self, const uint64_t *words, uint64_t sector) noexcept nogil
    # The first sector (relative) that may not be read so, or -1.
    cdef int64_t check(self, const void *data, uint64_t sector, uint64_t count) noexcept nogil
    # After a check: what was read is what these sectors hold.  Only with no write in flight.
    cdef void settle(self, const void *data, uint64_t sector, uint64_t count) noexcept nogil
