"""What a ring may still be told once it is enabled."""
from libc.stdint cimport uint8_t

from xenvbd.disk.liburing cimport io_uring

# Before enable_ring().  sqe_flags: every SQE must have them.  0 or a negative errno: this kernel restricts no rings,
# and the ring is as good as any.
cdef int restrict_ring(io_uring *ring, uint8_t sqe_flags) noexcept nogil
# By the thread that uses the ring.  0 or a negative errno.
cdef int enable_ring(io_uring *ring) noexcept nogil
