"""The host's Xen: the three tables, filled from libxenevtchn and libxengnttab.  Loaded only when it is there.

libxen sets errno; a negative errno comes out.  Its handles log nothing: our callers report.
"""
from libc.errno cimport EINVAL, EIO, errno
from libc.stdint cimport uint32_t
from posix.fcntl cimport F_GETFL, F_SETFL, O_NONBLOCK, fcntl
from posix.unistd cimport close

from xenvbd.hv.ops cimport (
    Hypervisor,
    xenvbd_evtchn_ops,
    xenvbd_gntshr_ops,
    xenvbd_gnttab_ops,
    xengnttab_grant_copy_segment_t,
)

cdef extern from "fcntl.h" nogil:
    int F_DUPFD_CLOEXEC

cdef extern from "xenevtchn.h" nogil:
    ctypedef struct xenevtchn_handle:
        pass
    xenevtchn_handle *xenevtchn_open(void *logger, unsigned flags)
    xenevtchn_handle *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
    int xenevtchn_close(xenevtchn_handle *xce)
    int xenevtchn_fd(xenevtchn_handle *xce)
    int xenevtchn_restrict(xenevtchn_handle *xce, unsigned domid)
    int xenevtchn_bind_unbound_port(xenevtchn_handle *xce, uint32_t domid)
    int xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, uint32_t remote_port)
    int xenevtchn_unbind(xenevtchn_handle *xce, uint32_t port)
    int xenevtchn_notify(xenevtchn_handle *xce, uint32_t port)
    int xenevtchn_pending(xenevtchn_handle *xce)
    int xenevtchn_unmask(xenevtchn_handle *xce, uint32_t port)

cdef extern from "xengnttab.h" nogil:
    ctypedef struct xengnttab_handle:
        pass
    xengnttab_handle *xengnttab_open(void *logger, unsigned flags)
    int xengnttab_close(xengnttab_handle *xgt)
    int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t count)
    void *xengnttab_map_domain_grant_refs(xengnttab_handle *xgt, uint32_t count, uint32_t domid,
                                          uint32_t *refs, int prot)
    int xengnttab_unmap(xengnttab_handle *xgt, void *address, uint32_t count)
    int xengnttab_grant_copy(xengnttab_handle *xgt, uint32_t count, xengnttab_grant_copy_segment_t *segments)
    ctypedef struct xengntshr_handle:
        pass
    xengntshr_handle *xengntshr_open(void *logger, unsigned flags)
    int xengntshr_close(xengntshr_handle *xgs)
    void *xengntshr_share_pages(xengntshr_handle *xgs, uint32_t domid, int count, uint32_t *refs,
                                int writable)
    int xengntshr_unshare(xengntshr_handle *xgs, void *address, uint32_t count)


cdef inline int failed() noexcept nogil:
    """The negative errno of a call that failed; never 0."""
    return -errno if errno > 0 else -EIO


cdef inline int outcome(int rc) noexcept nogil:
    return rc if rc >= 0 else failed()


cdef inline int opened(void *made, void **handle) noexcept nogil:
    handle[0] = made
    return 0 if made is not NULL else failed()


# -- Event channels

cdef int evtchn_open(void *machine, void **handle) noexcept nogil:
    """pending() must never block: the device keeps to O_NONBLOCK (in Linux since 2014)."""
    cdef xenevtchn_handle *xce = xenevtchn_open(NULL, 0)
    cdef int flags, rc
    if xce is NULL:
        return failed()
    flags = fcntl(xenevtchn_fd(xce), F_GETFL)
    if flags < 0 or fcntl(xenevtchn_fd(xce), F_SETFL, flags | O_NONBLOCK) < 0:
        rc = failed()
        xenevtchn_close(xce)
        return rc
    handle[0] = xce
    return 0


cdef int evtchn_close(void *handle) noexcept nogil:
    return outcome(xenevtchn_close(<xenevtchn_handle *>handle))


cdef int duplicate(int fd) noexcept nogil:
    return outcome(fcntl(fd, F_DUPFD_CLOEXEC, 0))


cdef int evtchn_share(void *handle) noexcept nogil:
    """What a handle is to the kernel is the open file: a descriptor of it has the same ports and restriction."""
    return duplicate(xenevtchn_fd(<xenevtchn_handle *>handle))


cdef int evtchn_fdopen(void *machine, int fd, void **handle) noexcept nogil:
    cdef int own = duplicate(fd), rc
    if own < 0:
        return own
    rc = opened(xenevtchn_fdopen(NULL, own, 0), handle)
    if rc < 0:
        close(own)
    return rc


cdef int evtchn_fd(void *handle) noexcept nogil:
    return outcome(xenevtchn_fd(<xenevtchn_handle *>handle))


cdef int evtchn_restrict(void *handle, uint32_t domid) noexcept nogil:
    return outcome(xenevtchn_restrict(<xenevtchn_handle *>handle, domid)) if domid <= 0xffff else -EINVAL


cdef int evtchn_bind_unbound(void *handle, uint32_t domid) noexcept nogil:
    return outcome(xenevtchn_bind_unbound_port(<xenevtchn_handle *>handle, domid))


cdef int evtchn_bind_interdomain(void *handle, uint32_t domid, uint32_t port) noexcept nogil:
    return outcome(xenevtchn_bind_interdomain(<xenevtchn_handle *>handle, domid, port))


cdef int evtchn_unbind(void *handle, uint32_t port) noexcept nogil:
    return outcome(xenevtchn_unbind(<xenevtchn_handle *>handle, port))


cdef int evtchn_notify(void *handle, uint32_t port) noexcept nogil:
    return outcome(xenevtchn_notify(<xenevtchn_handle *>handle, port))


cdef int evtchn_pending(void *handle) noexcept nogil:
    return outcome(xenevtchn_pending(<xenevtchn_handle *>handle))


cdef int evtchn_unmask(void *handle, uint32_t port) noexcept nogil:
    return outcome(xenevtchn_unmask(<xenevtchn_handle *>handle, port))


# -- Grant table

cdef int gnttab_open(void *machine, void **handle) noexcept nogil:
    return opened(xengnttab_open(NULL, 0), handle)


cdef int gnttab_close(void *handle) noexcept nogil:
    return outcome(xengnttab_close(<xengnttab_handle *>handle))


cdef int gnttab_set_max_grants(void *handle, uint32_t count) noexcept nogil:
    return outcome(xengnttab_set_max_grants(<xengnttab_handle *>handle, count))


cdef int gnttab_map(void *handle, uint32_t domid, const uint32_t *refs, uint32_t count, int prot,
                    void **address) noexcept nogil:
    return opened(xengnttab_map_domain_grant_refs(<xengnttab_handle *>handle, count, domid, <uint32_t *>refs,
                                                  prot), address)


cdef int gnttab_unmap(void *handle, void *address, uint32_t count) noexcept nogil:
    return outcome(xengnttab_unmap(<xengnttab_handle *>handle, address, count))


cdef int gnttab_copy(void *handle, xengnttab_grant_copy_segment_t *segments, uint32_t count) noexcept nogil:
    return outcome(xengnttab_grant_copy(<xengnttab_handle *>handle, count, segments))


# -- Grant sharing

cdef int gntshr_open(void *machine, void **handle) noexcept nogil:
    return opened(xengntshr_open(NULL, 0), handle)


cdef int gntshr_close(void *handle) noexcept nogil:
    return outcome(xengntshr_close(<xengntshr_handle *>handle))


cdef int gntshr_share(void *handle, uint32_t domid, uint32_t count, uint32_t *refs, int writable,
                      void **address) noexcept nogil:
    return opened(xengntshr_share_pages(<xengntshr_handle *>handle, domid, <int>count, refs, writable),
                  address)


cdef int gntshr_unshare(void *handle, void *address, uint32_t count) noexcept nogil:
    return outcome(xengntshr_unshare(<xengntshr_handle *>handle, address, count))


cdef xenvbd_evtchn_ops evtchn_ops
evtchn_ops.open = evtchn_open
evtchn_ops.close = evtchn_close
evtchn_ops.share = evtchn_share
evtchn_ops.fdopen = evtchn_fdopen
evtchn_ops.fd = evtchn_fd
evtchn_ops.restrict_domid = evtchn_restrict
evtchn_ops.bind_unbound = evtchn_bind_unbound
evtchn_ops.bind_interdomain = evtchn_bind_interdomain
evtchn_ops.unbind = evtchn_unbind
evtchn_ops.notify = evtchn_notify
evtchn_ops.pending = evtchn_pending
evtchn_ops.unmask = evtchn_unmask

cdef xenvbd_gnttab_ops gnttab_ops
gnttab_ops.open = gnttab_open
gnttab_ops.close = gnttab_close
gnttab_ops.set_max_grants = gnttab_set_max_grants
gnttab_ops.map = gnttab_map
gnttab_ops.unmap = gnttab_unmap
gnttab_ops.copy = gnttab_copy

cdef xenvbd_gntshr_ops gntshr_ops
gntshr_ops.open = gntshr_open
gntshr_ops.close = gntshr_close
gntshr_ops.share = gntshr_share
gntshr_ops.unshare = gntshr_unshare


def host(int domid, str store_path):
    """This host's Xen as domain domid, which must be the own one, sees it."""
    cdef Hypervisor hypervisor = Hypervisor.__new__(Hypervisor)
    hypervisor.c.evtchn = &evtchn_ops
    hypervisor.c.gnttab = &gnttab_ops
    hypervisor.c.gntshr = &gntshr_ops
    hypervisor.spec = "xen"
    hypervisor.domid = domid
    hypervisor.store_path = store_path
    return hypervisor
