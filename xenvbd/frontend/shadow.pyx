"""The data oracle: every sector the guest writes carries its number, a version and the seed; every read is checked.

A sector of pattern is 64 words: its number, the version, the seed, and 61 words that follow from the three, so a
sector that is torn, old, or another's is told from a right one and can be named (Shadow.explain).

A disk may be larger than memory: the states are reserved address space, of which only what was touched takes memory, in
chunks.  A region that is forgotten as a whole is so by its chunks.
"""
cimport cython
from libc.string cimport memcmp, memset

import hashlib

cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MREMAP_MAYMOVE, MADV_DONTNEED
    void *MAP_FAILED
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    void *mremap(void *old, size_t old_size, size_t new_size, int flags)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)

cdef extern from * nogil:
    """
    /* Constants, so that the compiler can fold them: 2^64 divided by the golden ratio, and a sector of nothing. */
    #define XENVBD_GOLDEN 0x9E3779B97F4A7C15ull
    static const uint64_t xenvbd_zero_sector[64];
    """
    uint64_t GOLDEN "XENVBD_GOLDEN"
    const uint64_t ZEROS "xenvbd_zero_sector"[64]

cdef extern from * nogil:
    enum:
        __ATOMIC_RELAXED
        __ATOMIC_ACQUIRE
        __ATOMIC_RELEASE
    uint64_t next_version "__atomic_add_fetch"(uint64_t *p, uint64_t count, int order) noexcept
    uint8_t load_chunk "__atomic_load_n"(uint8_t *p, int order) noexcept
    void store_chunk "__atomic_store_n"(uint8_t *p, uint8_t state, int order) noexcept
    bint swap_chunk "__atomic_compare_exchange_n"(uint8_t *p, uint8_t *was, uint8_t to, bint weak, int, int) noexcept

cdef uint64_t LAST_SECTOR = <uint64_t>1 << 54


# The functions for a sector's words are not traced: tracing them would be nearly all that the traced build does.

@cython.linetrace(False)
cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """The finaliser of splitmix64: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


@cython.linetrace(False)
cdef inline uint64_t key(uint64_t seed, uint64_t sector, uint64_t version) noexcept nogil:
    return mix(seed + mix(sector + mix(version + GOLDEN)))


@cython.linetrace(False)
cdef inline void fill_sector(uint64_t *words, uint64_t seed, uint64_t sector, uint64_t version) noexcept nogil:
    cdef uint64_t base = key(seed, sector, version)
    cdef int i
    for i in range(WORDS):
        words[i] = base + <uint64_t>i * GOLDEN
    words[0], words[1], words[2] = sector, version, seed


@cython.linetrace(False)
cdef inline bint is_pattern(const uint64_t *words, uint64_t seed, uint64_t sector, uint64_t version) noexcept nogil:
    cdef uint64_t base = key(seed, sector, version)
    cdef uint64_t difference = (words[0] ^ sector) | (words[1] ^ version) | (words[2] ^ seed)
    cdef int i
    for i in range(3, WORDS):
        difference |= words[i] ^ (base + <uint64_t>i * GOLDEN)
    return difference == 0


cdef inline bint is_zero(const uint64_t *words) noexcept nogil:
    return memcmp(words, ZEROS, SECTOR) == 0


@cython.linetrace(False)
cdef uint64_t hash_sector(const uint64_t *words) noexcept nogil:
    cdef uint64_t h = 0
    cdef int i
    for i in range(WORDS):
        h = mix(h + words[i] + GOLDEN)
    return h


cdef uint64_t HASH_OF_ZEROS = hash_sector(ZEROS)


cdef inline size_t states_size(uint64_t sectors) noexcept nogil:
    """Bytes of the states of whole chunks, one more than the sectors need."""
    return (sectors // CHUNK + 1) * CHUNK * sizeof(sector_state)


cdef inline size_t chunks_size(uint64_t sectors) noexcept nogil:
    return sectors // CHUNK + 1


cdef void *reserve(size_t size) noexcept nogil:
    """Address space that reads as zeros and takes memory where it is written; NULL: there is none."""
    cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


cdef class Shadow:
    """Shadow(sectors, seed=1, blank=True): the shadow of a disk of so many 512-byte sectors.

    blank: what was never written must read as zeros; otherwise it may hold anything.  Memory: 16 bytes a
    sector, taken as sectors are written, and a byte a MiB.  Raises MemoryError, and ValueError for a size no disk has.
    """

    def __cinit__(self, uint64_t sectors, uint64_t seed=1, bint blank=True):
        if sectors > LAST_SECTOR:
            raise ValueError(f"{sectors} sectors: no disk is that large")
        self.sectors, self.room, self.seed, self.blank, self.literals = sectors, sectors, seed, blank, {}
        self.map, self.chunks = <sector_state *>reserve(states_size(sectors)), <uint8_t *>reserve(chunks_size(sectors))
        if self.map is NULL or self.chunks is NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.map is not NULL:
            munmap(self.map, states_size(self.room))
        if self.chunks is not NULL:
            munmap(self.chunks, chunks_size(self.room))

    cdef inline sector_state at(self, uint64_t sector) noexcept nogil:
        """The state of a sector; looking takes no memory."""
        cdef uint8_t chunk = load_chunk(&self.chunks[sector // CHUNK], __ATOMIC_ACQUIRE)
        cdef sector_state s
        if chunk == TOUCHED:
            return self.map[sector]
        s.stable, s.latest = 0, SHADOW_UNKNOWN if chunk else 0
        return s

    cdef inline sector_state *touch(self, uint64_t sector) noexcept nogil:
        if load_chunk(&self.chunks[sector // CHUNK], __ATOMIC_ACQUIRE) != TOUCHED:
            self.open_chunk(sector // CHUNK)
        return &self.map[sector]

    cdef void open_chunk(self, uint64_t chunk) noexcept nogil:
        """Have the states of a chunk in memory.  The queues' regions may meet in it, so only one thread writes them."""
        cdef uint8_t was = FORGOTTEN
        cdef uint64_t i
        if swap_chunk(&self.chunks[chunk], &was, OPENING, False, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE):
            for i in range(chunk * CHUNK, (chunk + 1) * CHUNK):
                self.map[i].latest = SHADOW_UNKNOWN
        elif was == OPENING:
            while load_chunk(&self.chunks[chunk], __ATOMIC_ACQUIRE) == OPENING:
                pass
            return
        store_chunk(&self.chunks[chunk], TOUCHED, __ATOMIC_RELEASE)

    cdef uint64_t begin(self, uint64_t sector, uint64_t count) noexcept nogil:
        cdef uint64_t i
        cdef uint64_t version = next_version(&self.version, 1, __ATOMIC_RELAXED)      # queues share it
        cdef sector_state *s
        for i in range(sector, min(sector + count, self.sectors)):
            s = self.touch(i)
            # A literal leaves no range of versions to lie in: until the write is answered, anything may be read.
            if s.latest & SHADOW_LITERAL:
                s.latest = SHADOW_UNKNOWN
            s.latest = version << 3 | (s.latest & 7)
        return version

    cdef void commit(self, uint64_t sector, uint64_t count, uint64_t version) noexcept nogil:
        cdef uint64_t i
        cdef sector_state *s
        for i in range(sector, min(sector + count, self.sectors)):
            s = self.touch(i)
            s.stable, s.latest = version, version << 3

    cdef void discard(self, uint64_t sector, uint64_t count) noexcept nogil:
        cdef uint64_t i
        for i in range(sector, min(sector + count, self.sectors)):
            self.touch(i).latest |= SHADOW_ZERO

    cdef void forget(self, uint64_t sector, uint64_t count) noexcept nogil:
        cdef uint64_t i = sector, end = min(sector + count, self.sectors)
        while i < end:
            if i % CHUNK == 0 and i + CHUNK <= end and self.chunks[i // CHUNK] != TOUCHED:
                self.chunks[i // CHUNK] = FORGOTTEN
                i += CHUNK
            else:
                self.touch(i).latest |= SHADOW_UNKNOWN
                i += 1

    cdef void fill(self, void *data, uint64_t sector, uint64_t count, uint64_t version) noexcept nogil:
        cdef uint64_t i
        for i in range(count):
            fill_sector(<uint64_t *>data + i * WORDS, self.seed, sector + i, version)

    cdef bint acceptable(self, const uint64_t *words, uint64_t sector) noexcept nogil:
        """Whether these bytes may be read from that sector."""
        cdef sector_state s = self.at(sector)
        cdef uint64_t version = s.latest >> 3
        if s.latest & SHADOW_UNKNOWN or (s.stable == 0 and not self.blank and not s.latest & SHADOW_LITERAL):
            return True
        if s.latest & SHADOW_ZERO and is_zero(words):
            return True
        if s.latest & SHADOW_LITERAL:
            return hash_sector(words) == s.stable
        if version != s.stable and s.stable <= words[1] <= version:
            version = words[1]
        return is_zero(words) if version == 0 else is_pattern(words, self.seed, sector, version)

    cdef int64_t check(self, const void *data, uint64_t sector, uint64_t count) noexcept nogil:
        cdef uint64_t i
        for i in range(count):
            # A sector beyond the end cannot be read at all.
            if sector + i >= self.sectors or not self.acceptable(<const uint64_t *>data + i * WORDS, sector + i):
                return i
        return -1

    cdef void settle(self, const void *data, uint64_t sector, uint64_t count) noexcept nogil:
        cdef uint64_t i
        cdef const uint64_t *words
        cdef sector_state known
        cdef sector_state *s
        for i in range(count):
            known, words = self.at(sector + i), <const uint64_t *>data + i * WORDS
            if known.latest == known.stable << 3 or known.latest == SHADOW_LITERAL:
                continue
            s = self.touch(sector + i)
            if is_zero(words):
                s.stable, s.latest = HASH_OF_ZEROS, SHADOW_LITERAL
            elif is_pattern(words, self.seed, sector + i, words[1]):
                s.stable, s.latest = words[1], words[1] << 3
            elif s.latest & SHADOW_LITERAL:
                s.latest = SHADOW_LITERAL

    # The Python face

    def resize(self, uint64_t sectors):
        """The disk has another size now; what was known of the sectors it keeps, stays.  Raises MemoryError."""
        if sectors > LAST_SECTOR:
            raise ValueError(f"{sectors} sectors: no disk is that large")
        if sectors > self.room:
            self._make_room(sectors)
        if sectors > self.sectors:
            self._begin_anew(self.sectors, sectors)
        self.sectors = sectors

    def _make_room(self, uint64_t sectors):
        cdef void *map = mremap(self.map, states_size(self.room), states_size(sectors), MREMAP_MAYMOVE)
        cdef void *chunks
        if map == MAP_FAILED:
            raise MemoryError()
        self.map = <sector_state *>map
        chunks = mremap(self.chunks, chunks_size(self.room), chunks_size(sectors), MREMAP_MAYMOVE)
        if chunks == MAP_FAILED:
            self.map = <sector_state *>mremap(map, states_size(sectors), states_size(self.room), 0)   # shrinks in place
            raise MemoryError()
        self.chunks, self.room = <uint8_t *>chunks, sectors

    def _begin_anew(self, uint64_t first, uint64_t end):
        """These sectors, up to the disk's new end, were never written, whatever a larger disk before had there."""
        cdef uint64_t chunk = (first + CHUNK - 1) // CHUNK, last = end // CHUNK + 1
        if first % CHUNK:
            memset(self.touch(first), 0, (chunk * CHUNK - first) * sizeof(sector_state))
        if chunk < last:
            madvise(self.map + chunk * CHUNK, (last - chunk) * CHUNK * sizeof(sector_state), MADV_DONTNEED)
            memset(self.chunks + chunk, UNTOUCHED, last - chunk)

    def bytes_of(self, uint64_t sector, uint64_t count, uint64_t version):
        """The pattern of count sectors from sector at a version, as bytes."""
        cdef bytearray out = bytearray(count * SECTOR)
        cdef char *p = out
        self.fill(p, sector, count, version)
        return bytes(out)

    def sent(self, uint64_t sector, uint64_t count):
        """A pattern write goes out: its version."""
        return self.begin(sector, count)

    def answered(self, uint64_t sector, uint64_t count, uint64_t version):
        """The write with that version was answered OKAY and had its sectors for itself."""
        self.commit(sector, count, version)

    def discarded(self, uint64_t sector, uint64_t count):
        """A discard goes out: from now on zeros may be read there as well."""
        self.discard(sector, count)

    def unknown(self, uint64_t sector, uint64_t count):
        """Anything may be read there from now on, until it is written again."""
        self.forget(sector, count)

    def wrote(self, uint64_t sector, bytes data):
        """The sectors from sector hold these bytes, no pattern.  ValueError: not whole sectors of this disk."""
        cdef const char *p = data
        cdef Py_ssize_t i
        cdef sector_state *s
        if len(data) % SECTOR or sector + len(data) // SECTOR > self.sectors:
            raise ValueError(f"{len(data)} bytes at sector {sector} are not sectors of this disk")
        for i in range(len(data) // SECTOR):
            s = self.touch(sector + i)
            s.stable, s.latest = hash_sector(<const uint64_t *>(p + i * SECTOR)), SHADOW_LITERAL
            self.literals[sector + i] = data[i * SECTOR:(i + 1) * SECTOR]

    def mismatch(self, uint64_t sector, bytes data):
        """What is wrong with these bytes, read from sector: a sentence; None if nothing is."""
        cdef const char *p = data
        cdef int64_t bad = self.check(p, sector, len(data) // SECTOR)
        return None if bad < 0 else self.explain(sector + bad, data[bad * SECTOR:(bad + 1) * SECTOR])

    def explain(self, uint64_t sector, bytes data):
        """A sentence on what a wrong sector holds and what it should hold.  data: its 512 bytes."""
        return f"sector {sector}: expected {self._expected(sector)}, read {self._found(sector, data)}"

    def _expected(self, uint64_t sector):
        if sector >= self.sectors:
            return f"an error, for the disk ends at sector {self.sectors}"
        cdef sector_state s = self.at(sector)
        if s.latest & SHADOW_LITERAL:
            return "the bytes written last" + (" or zeros (discarded)" if s.latest & SHADOW_ZERO else "")
        names = {(0, 0): "zeros (never written)"}
        text = names.get((s.stable, s.latest >> 3)) or (
            f"version {s.stable}" if s.stable == s.latest >> 3 else f"versions {s.stable} to {s.latest >> 3}")
        return text + (" or zeros (discarded)" if s.latest & SHADOW_ZERO else "")

    def _found(self, uint64_t sector, bytes data):
        cdef const uint64_t *words = <const uint64_t *><const char *>data
        if is_zero(words):
            return "zeros"
        if is_pattern(words, words[2], words[0], words[1]):
            return self._named(sector, words[0], words[1], words[2])
        return self._torn(sector, data)

    def _named(self, sector, found, version, seed):
        """What a whole pattern sector is, which is not the one expected."""
        if seed != self.seed:
            return f"sector {found} version {version} of another run (seed {seed})"
        if found != sector:
            return f"sector {found} version {version} (another sector's data)"
        return f"version {version} ({'stale' if version < self.at(sector).stable else 'never sent here'})"

    def _torn(self, uint64_t sector, bytes data):
        """Where a sector that is no pattern departs from the one its own header promises."""
        cdef const uint64_t *words = <const uint64_t *><const char *>data
        cdef uint64_t base = key(words[2], words[0], words[1])
        cdef int i
        if words[2] != self.seed:
            return f"no pattern: {data[:16].hex(' ')} ..."
        for i in range(3, WORDS):
            if words[i] != base + <uint64_t>i * GOLDEN:
                break
        tail = self._version_of(sector, i, words[i])
        return (f"a torn sector: sector {words[0]} version {words[1]} up to byte {i * 8}, then "
                + (f"version {tail}" if tail else f"{data[i * 8:i * 8 + 8].hex(' ')} ..."))

    def _version_of(self, uint64_t sector, int i, uint64_t word):
        """The version whose pattern of this sector has that word at i, looking at the last 4096; None if none has."""
        cdef object last = self.version      # an object: unsigned arithmetic would wrap below
        for version in range(last, max(last - 4096, 0), -1):
            if key(self.seed, sector, version) + <uint64_t>i * GOLDEN == word:
                return version
        return None

    def uncertain(self, uint64_t sector, uint64_t count):
        """The sectors among these of which more than one content may be read, as a list."""
        return [i for i in range(sector, min(sector + count, self.sectors)) if self._is_uncertain(i)]

    def _is_uncertain(self, uint64_t sector):
        cdef sector_state s = self.at(sector)
        return s.latest != s.stable << 3 and s.latest != SHADOW_LITERAL

    def digest(self, uint64_t sectors=0):
        """SHA-256, in hex, of what the guest wrote to the first sectors (0: all), zeros where it never wrote.

        ValueError: a sector has more than one content it may hold (a failed write, a discard); a verifying pass
        over the disk settles that."""
        cdef uint64_t first, count, end = sectors or self.sectors
        sha = hashlib.sha256()
        for first in range(0, end, 2048):
            count = min(<uint64_t>2048, end - first)
            sha.update(self._image(first, count))
        return sha.hexdigest()

    def _image(self, uint64_t first, uint64_t count):
        """The bytes that these sectors hold for certain."""
        cdef bytearray out = bytearray(count * SECTOR)
        cdef char *p = out
        cdef uint64_t i
        cdef sector_state s
        for i in range(count):
            s = self.at(first + i)
            if s.latest == SHADOW_LITERAL:
                if s.stable != HASH_OF_ZEROS:
                    out[i * SECTOR:(i + 1) * SECTOR] = self.literals[first + i]
            elif s.latest != s.stable << 3:
                raise ValueError(f"sector {first + i} may hold more than one content: read it back first")
            elif s.stable:
                fill_sector(<uint64_t *>(p + i * SECTOR), self.seed, first + i, s.stable)
        return out
