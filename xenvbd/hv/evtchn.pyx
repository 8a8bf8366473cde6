"""Event channels: the owned handle.  The only caller of the event-channel table."""
import errno
import os

cimport cython
from libc.errno cimport EAGAIN, EBADF

from xenvbd.errors import check

# A kernel or machine without it: the handle is not confined, and works.
NO_RESTRICTION = (-errno.ENOTTY, -errno.ENOSYS, -errno.EOPNOTSUPP)


@cython.no_gc_clear      # __dealloc__ needs the hypervisor
cdef class EventChannels:

    def __cinit__(self, Hypervisor hypervisor not None, shared=None):
        """Open a handle; or, of a descriptor that share() gave another process, one as confined as that one's.  The
        descriptor stays the caller's.  Raises HypervisorError."""
        cdef int rc, fd = -1 if shared is None else shared
        self._hypervisor = hypervisor
        with nogil:
            if fd < 0:
                rc = hypervisor.c.evtchn.open(hypervisor.c.machine, &self._handle)
            else:
                rc = hypervisor.c.evtchn.fdopen(hypervisor.c.machine, fd, &self._handle)
        check(rc, "open event channels")

    def __dealloc__(self):
        self.c_close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- The data path

    cdef int c_fd(self) noexcept nogil:
        return self._hypervisor.c.evtchn.fd(self._handle) if self._handle else -EBADF

    cdef int c_restrict_domid(self, uint32_t domid) noexcept nogil:
        return self._hypervisor.c.evtchn.restrict_domid(self._handle, domid) if self._handle else -EBADF

    cdef int c_bind_unbound(self, uint32_t domid) noexcept nogil:
        return self._hypervisor.c.evtchn.bind_unbound(self._handle, domid) if self._handle else -EBADF

    cdef int c_bind_interdomain(self, uint32_t domid, uint32_t port) noexcept nogil:
        if not self._handle:
            return -EBADF
        return self._hypervisor.c.evtchn.bind_interdomain(self._handle, domid, port)

    cdef int c_unbind(self, uint32_t port) noexcept nogil:
        return self._hypervisor.c.evtchn.unbind(self._handle, port) if self._handle else -EBADF

    cdef int c_notify(self, uint32_t port) noexcept nogil:
        return self._hypervisor.c.evtchn.notify(self._handle, port) if self._handle else -EBADF

    cdef int c_pending(self) noexcept nogil:
        return self._hypervisor.c.evtchn.pending(self._handle) if self._handle else -EBADF

    cdef int c_unmask(self, uint32_t port) noexcept nogil:
        return self._hypervisor.c.evtchn.unmask(self._handle, port) if self._handle else -EBADF

    cdef int c_close(self) noexcept nogil:
        cdef void *handle = self._handle
        self._handle = NULL
        return self._hypervisor.c.evtchn.close(handle) if handle else 0

    # -- Python

    def fileno(self) -> int:
        """The descriptor that is readable while a port is pending."""
        return check(self.c_fd(), "event channels")

    def restrict_domid(self, uint32_t domid) -> None:
        """From now on bind only to that domain's ports.  EACCES: it is restricted already."""
        check(self.c_restrict_domid(domid), f"restrict event channels to domain {domid}")

    def confine(self, uint32_t domid) -> None:
        """restrict_domid(), where that can be had: an old Linux cannot, and none can to domain 0, whose disks are
        this very domain's own (a toolstack reads a guest's boot loader through one)."""
        cdef int rc = self.c_restrict_domid(domid) if domid else 0
        if rc not in NO_RESTRICTION:
            check(rc, f"confine the event channels to domain {domid}")

    def share(self) -> int:
        """A new descriptor, of which another process of this domain makes its handle: EventChannels(machine, fd)."""
        cdef int fd = self._hypervisor.c.evtchn.share(self._handle) if self._handle else -EBADF
        return check(fd, "share event channels")

    def bind_unbound(self, uint32_t domid) -> int:
        """A new port, for that domain to bind to."""
        cdef int rc
        with nogil:
            rc = self.c_bind_unbound(domid)
        return check(rc, f"allocate an event channel for domain {domid}")

    def bind_interdomain(self, uint32_t domid, uint32_t port) -> int:
        """A new port bound to that domain's unbound one; it is pending at once.  EINVAL: it is not for us."""
        cdef int rc
        with nogil:
            rc = self.c_bind_interdomain(domid, port)
        return check(rc, f"bind to event channel {port} of domain {domid}")

    def unbind(self, uint32_t port) -> None:
        """Close one of our ports; the other end becomes unbound.  ENOTCONN: not ours."""
        cdef int rc
        with nogil:
            rc = self.c_unbind(port)
        check(rc, f"unbind event channel {port}")

    def notify(self, uint32_t port) -> None:
        """Make the other end pending.  Nothing happens if there is none.  ENOTCONN: not our port."""
        check(self.c_notify(port), f"notify event channel {port}")

    def pending(self) -> int | None:
        """A pending port of ours, masked from now on until unmask(); None: there is none.  Never blocks."""
        cdef int port = self.c_pending()
        return None if port == -EAGAIN else check(port, "pending event channels")

    def unmask(self, uint32_t port) -> None:
        """Let the port become pending again; at once if it was notified meanwhile."""
        check(self.c_unmask(port), f"unmask event channel {port}")

    def close(self) -> None:
        """Close the handle and every port bound through it.  Doing it again does nothing."""
        with nogil:
            self.c_close()


def offer(Hypervisor hypervisor not None, uint32_t domid, int count):
    """Descriptors of so many handles, for a worker that may open none: each is bound to nobody but that domain, and
    nothing that has it can lift that.  They are the caller's.  Raises HypervisorError."""
    found = []
    try:
        for _ in range(count):
            with EventChannels(hypervisor) as channels:
                channels.confine(domid)
                found.append(channels.share())
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found
