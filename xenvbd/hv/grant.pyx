"""Grants: the owned handles and what they hand out.  The only caller of the grant and sharing tables."""
import weakref

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EBADF, EBUSY, EIO
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from posix.mman cimport PROT_READ, PROT_WRITE

from xenvbd.hv.ops cimport GNTST_okay

from xenvbd.errors import HypervisorError, check

cdef enum:
    PAGE = 4096

STATUS = {      # xen/grant_table.h, GNTTABOP_error_msgs
    0: "GNTST_okay", -1: "GNTST_general_error", -2: "GNTST_bad_domain", -3: "GNTST_bad_gntref",
    -4: "GNTST_bad_handle", -5: "GNTST_bad_virt_addr", -6: "GNTST_bad_dev_addr", -7: "GNTST_no_device_space",
    -8: "GNTST_permission_denied", -9: "GNTST_bad_page", -10: "GNTST_bad_copy_arg",
    -11: "GNTST_address_too_big", -12: "GNTST_eagain", -13: "GNTST_no_space",
}


cdef uint32_t *_array(refs) except NULL:
    """A C array of grefs; the caller frees it."""
    cdef uint32_t *array = <uint32_t *>malloc(max(1, len(refs)) * sizeof(uint32_t))
    cdef Py_ssize_t i
    if array is NULL:
        raise MemoryError
    try:
        for i in range(len(refs)):
            array[i] = refs[i]
    except BaseException:
        free(array)
        raise
    return array


cdef class Pages:

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.address is NULL:
            raise HypervisorError(EBADF, "these pages have been given back")
        PyBuffer_FillInfo(view, self, self.address, <Py_ssize_t>self.count * PAGE, not self.writable, flags)
        self._views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._views -= 1

    cdef int c_release(self) noexcept nogil:
        return 0

    def release(self) -> None:
        """Give the pages back.  Doing it again does nothing.  EBUSY: a memoryview of them is still in use."""
        cdef int rc
        with nogil:
            rc = self.c_release()
        check(rc, f"give back {self.count} pages")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()


@cython.no_gc_clear      # __dealloc__ needs the handle, and that the hypervisor
cdef class Mapping(Pages):

    def __init__(self):
        raise TypeError("use GrantTable.map()")

    def __dealloc__(self):
        self.c_release()

    cdef int c_release(self) noexcept nogil:
        cdef int rc
        if self.address is NULL:
            return 0
        if self._views:
            return -EBUSY
        rc = self._table._hypervisor.c.gnttab.unmap(self._table._handle, self.address, self.count)
        if rc >= 0:
            self.address = NULL
        return rc

    def unmap(self) -> None:
        """release() by its name in libxengnttab."""
        self.release()


@cython.no_gc_clear
cdef class Shared(Pages):

    def __init__(self):
        raise TypeError("use GrantSharer.share()")

    def __dealloc__(self):
        self.c_release()

    cdef int c_release(self) noexcept nogil:
        cdef int rc
        if self.address is NULL:
            return 0
        if self._views:
            return -EBUSY
        rc = self._sharer._hypervisor.c.gntshr.unshare(self._sharer._handle, self.address, self.count)
        if rc >= 0:
            self.address = NULL
        return rc

    def unshare(self) -> None:
        """release() by its name in libxengnttab."""
        self.release()


@cython.no_gc_clear
cdef class Handle:

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    cdef int c_close(self) noexcept nogil:
        return 0

    def close(self) -> None:
        """Give back all pages that came from this handle, and close it.  Doing it again does nothing.

        Raises HypervisorError and stays open if some cannot be given back (EBUSY: a memoryview is in use)."""
        for pages in list(self._live):
            pages.release()
        with nogil:
            self.c_close()


@cython.no_gc_clear
cdef class GrantTable(Handle):

    def __cinit__(self, Hypervisor hypervisor not None):
        """Open a handle.  Raises HypervisorError."""
        cdef int rc
        self._hypervisor = hypervisor
        self._live = weakref.WeakSet()
        with nogil:
            rc = hypervisor.c.gnttab.open(hypervisor.c.machine, &self._handle)
        check(rc, "open the grant table")

    def __dealloc__(self):
        self.c_close()

    cdef int c_close(self) noexcept nogil:
        cdef void *handle = self._handle
        self._handle = NULL
        return self._hypervisor.c.gnttab.close(handle) if handle else 0

    def set_max_grants(self, uint32_t count) -> None:
        """How many pages may be mapped through this handle; Linux has no such bound now and ignores it."""
        check(self._hypervisor.c.gnttab.set_max_grants(self._handle, count) if self._handle else -EBADF,
              f"allow {count} grants")

    cpdef Mapping map(self, uint32_t domid, refs, bint writable=True):
        """Map the pages that domain domid granted as refs, side by side.  Raises HypervisorError (EINVAL: one
        of them is not granted to us, or read-only and writable was asked for)."""
        cdef Mapping mapping = Mapping.__new__(Mapping)
        cdef uint32_t *array = _array(refs)
        cdef int rc = -EBADF
        mapping._table = self
        mapping.count = len(refs)
        mapping.writable = writable
        if self._handle:
            with nogil:
                rc = self.c_map(domid, array, mapping.count, writable, &mapping.address)
        free(array)
        check(rc, f"map {len(refs)} grants of domain {domid}")
        self._live.add(mapping)
        return mapping

    cdef int c_map(self, uint32_t domid, const uint32_t *refs, uint32_t count, bint writable,
                   void **address) noexcept nogil:
        if not self._handle:
            return -EBADF
        return self._hypervisor.c.gnttab.map(self._handle, domid, refs, count,
                                             PROT_READ | PROT_WRITE if writable else PROT_READ, address)

    cdef int c_unmap(self, void *address, uint32_t count) noexcept nogil:
        return self._hypervisor.c.gnttab.unmap(self._handle, address, count) if self._handle else -EBADF

    cdef int copy(self, xengnttab_grant_copy_segment_t *segments, uint32_t count) noexcept nogil:
        return self._hypervisor.c.gnttab.copy(self._handle, segments, count) if self._handle else -EBADF

    cdef int _copy_one(self, xengnttab_grant_copy_segment_t *segment) except? -1:
        cdef int rc
        with nogil:
            rc = self.copy(segment, 1)
        check(rc, "grant copy")
        return segment.status

    def try_read(self, uint32_t domid, uint32_t gref, uint16_t offset, uint8_t[::1] into) -> int:
        """Grant copy from a page into a writable buffer of up to 4096 bytes; returns the GNTST_* status."""
        cdef xengnttab_grant_copy_segment_t segment
        copy_from_guest(&segment, gref, domid, offset, &into[0] if into.shape[0] else NULL, into.shape[0])
        return self._copy_one(&segment)

    def try_write(self, uint32_t domid, uint32_t gref, uint16_t offset, const uint8_t[::1] data) -> int:
        """Grant copy of up to 4096 bytes to a page; returns the GNTST_* status."""
        cdef xengnttab_grant_copy_segment_t segment
        copy_to_guest(&segment, gref, domid, offset, &data[0] if data.shape[0] else NULL, data.shape[0])
        return self._copy_one(&segment)

    def read(self, uint32_t domid, uint32_t gref, uint16_t offset=0, uint16_t length=PAGE) -> bytes:
        """Grant copy from a page.  Raises HypervisorError, which names the status."""
        into = bytearray(length)
        _check_status(self.try_read(domid, gref, offset, into), gref, domid)
        return bytes(into)

    def write(self, uint32_t domid, uint32_t gref, uint16_t offset, data) -> None:
        """Grant copy to a page.  Raises HypervisorError, which names the status."""
        _check_status(self.try_write(domid, gref, offset, data), gref, domid)


def _check_status(status, gref, domid):
    if status != GNTST_okay:
        name = STATUS.get(status, status)
        raise HypervisorError(EIO, f"grant copy with gref {gref} of domain {domid}: {name}")


@cython.no_gc_clear
cdef class GrantSharer(Handle):

    def __cinit__(self, Hypervisor hypervisor not None):
        """Open a handle.  Raises HypervisorError."""
        cdef int rc
        self._hypervisor = hypervisor
        self._live = weakref.WeakSet()
        with nogil:
            rc = hypervisor.c.gntshr.open(hypervisor.c.machine, &self._handle)
        check(rc, "open the sharing side of the grant table")

    def __dealloc__(self):
        self.c_close()

    cdef int c_close(self) noexcept nogil:
        cdef void *handle = self._handle
        self._handle = NULL
        return self._hypervisor.c.gntshr.close(handle) if handle else 0

    cpdef Shared share(self, uint32_t domid, uint32_t count, bint writable=True):
        """count fresh pages of zeros, granted to domain domid, side by side.  Raises HypervisorError."""
        cdef Shared shared = Shared.__new__(Shared)
        cdef uint32_t *array = _array(range(count))
        cdef int rc = -EBADF
        cdef uint32_t i
        shared._sharer = self
        shared.count = count
        shared.writable = True
        if self._handle:
            with nogil:
                rc = self._hypervisor.c.gntshr.share(self._handle, domid, count, array, writable,
                                                     &shared.address)
        if rc >= 0:
            shared.refs = tuple([array[i] for i in range(count)])
        free(array)
        check(rc, f"share {count} pages with domain {domid}")
        self._live.add(shared)
        return shared
