"""Event channels: one open handle of the event-channel table, owned."""
from libc.stdint cimport uint32_t

from xenvbd.hv.ops cimport Hypervisor


cdef class EventChannels:
    """One open handle; it belongs to one thread.

    The c_ methods are the data path's: 0 or a positive result, or a negative errno (-EBADF once closed).
    Those without the prefix are Python's: the same, but they raise HypervisorError.
    """
    cdef Hypervisor _hypervisor
    cdef void *_handle

    cdef int c_fd(self) noexcept nogil                                  # readable while a port is pending
    cdef int c_restrict_domid(self, uint32_t domid) noexcept nogil
    cdef int c_bind_unbound(self, uint32_t domid) noexcept nogil                            # -> port
    cdef int c_bind_interdomain(self, uint32_t domid, uint32_t port) noexcept nogil         # -> port
    cdef int c_unbind(self, uint32_t port) noexcept nogil
    cdef int c_notify(self, uint32_t port) noexcept nogil
    cdef int c_pending(self) noexcept nogil                             # -> port, now masked; -EAGAIN: none
    cdef int c_unmask(self, uint32_t port) noexcept nogil
    cdef int c_close(self) noexcept nogil
