"""The base of every engine and filter: what an operation is, and what each method promises."""
from libc.errno cimport EOPNOTSUPP


cdef class DiskQueue:

    cdef int attach(self) noexcept nogil:
        """Get ready in the calling thread (make the io_uring, ...).  0 or a negative errno."""
        return 0

    cdef void detach(self) noexcept nogil:
        """Undo attach().  Nothing may be in flight."""
        pass

    cdef int register_buffer(self, void *address, size_t length) noexcept nogil:
        """Iovecs from now on lie in this memory, or in registered pages; it stays valid until detach().  0 or a
        negative errno; a failure only costs speed.  NULL, with nothing in flight: forget it, so that its pages may
        go."""
        return 0

    cdef int register_page(self, uint32_t number, void *address) noexcept nogil:
        """Operations may name this page of memory by its number (1 to DISK_PAGES) in op.buffer, until NULL forgets it,
        with none of them in flight.  0 or a negative errno: it is as it was before, which only costs speed."""
        return -EOPNOTSUPP if address != NULL else 0

    cdef int watch(self, int fd, uint32_t tag) noexcept nogil:
        """Let sleep() also return when fd is readable; it then sets bit tag (0..31) of *ready.  Level
        triggered: it keeps returning until somebody has read the fd.  0 or a negative errno."""
        return 0

    cdef void submit(self, disk_op *chain) noexcept nogil:
        """Take a chain of operations; no system call where the engine can put that off to enter() or sleep().
        Never fails: a failure is a completion with op.result < 0.  No more than depth may be in flight."""
        pass                # no engine is the base class

    cdef int enter(self) noexcept nogil:
        """Start everything submitted so far (at most one system call).  0 or a negative errno."""
        return 0

    cdef disk_op *reap(self) noexcept nogil:
        """The chain of all finished operations, or NULL.  No blocking."""
        return NULL

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        """Start everything submitted, then wait until an operation has finished, a watched fd is readable, or
        timeout_ns has passed (< 0: no timeout; 0: only look).  0 or a negative errno (-EINTR is not one);
        *ready is the set of tags whose fd is readable."""
        ready[0] = 0
        return 0

    cdef uint64_t system_calls(self) noexcept nogil:
        """System calls made by this queue so far, for the statistics."""
        return 0


cdef class Disk:

    def __cinit__(self, *args, **options):
        self.discard_unit = 512

    cpdef DiskQueue queue(self, unsigned depth):
        """A queue for one I/O thread with room for depth operations in flight.  Raises OSError."""
        raise NotImplementedError(type(self).__name__)

    cpdef close(self):
        """Close the target; every queue must be detached.  The image's lock goes with its descriptor."""
