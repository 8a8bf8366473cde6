"""The body of events.pxd, and the names of the kinds."""
from libc.stdint cimport uint64_t

cdef extern from *:
    enum:
        __ATOMIC_ACQUIRE
        __ATOMIC_RELEASE
    uint32_t load "__atomic_load_n"(const uint32_t *p, int order) noexcept nogil
    void store "__atomic_store_n"(uint32_t *p, uint32_t value, int order) noexcept nogil

cdef extern from "unistd.h" nogil:
    ssize_t write(int fd, const void *data, size_t length)

KINDS = ("quarantined", "flush-failed", "no-space", "resumed", "io-error", "io-stop", "stopped")


cdef void event_post(event_list *events, uint32_t kind, int error, uint64_t detail) noexcept nogil:
    cdef event *slot = &events.entries[events.written % EVENTS]
    # The last place is kept for the one event that must not get lost.
    cdef uint32_t room = EVENTS if kind == EVENT_STOPPED else EVENTS - 1
    if events.written - load(&events.taken, __ATOMIC_ACQUIRE) >= room:
        events.dropped += 1
        return
    slot.kind, slot.error, slot.detail = kind, error, detail
    store(&events.written, events.written + 1, __ATOMIC_RELEASE)
    kick(events.fd)


cdef bint event_take(event_list *events, event *out) noexcept nogil:
    if load(&events.written, __ATOMIC_ACQUIRE) == events.taken:
        return False
    out[0] = events.entries[events.taken % EVENTS]
    store(&events.taken, events.taken + 1, __ATOMIC_RELEASE)
    return True


cdef void kick(int fd) noexcept nogil:
    cdef uint64_t one = 1
    write(fd, &one, sizeof(one))    # it can only fail for being full, and then it is readable all the same
