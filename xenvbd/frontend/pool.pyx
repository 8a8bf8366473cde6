"""The pages that carry the data: granted once for all, or, as blkfront without persistent grants, for each request."""
from libc.errno cimport ENOMEM
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from xenvbd.hv.grant cimport Shared
from xenvbd.ring cimport XENVBD_PAGE_SIZE

from xenvbd.errors import check


cdef class PagePool:
    """PagePool(hypervisor, domid, fresh): pages for the backend domid, none at first.  fresh: pages are shared when
    a request takes them and unshared when it gives them back."""

    def __cinit__(self, Hypervisor hypervisor, uint32_t domid, bint fresh):
        self.hypervisor, self.domid, self.fresh = hypervisor, domid, fresh
        self.free_page, self.areas = -1, []
        self.sharer = GrantSharer(hypervisor)

    def __dealloc__(self):
        free(self.pages)

    cdef int add(self, uint32_t count) noexcept nogil:
        """Room for count more in the table of pages, and all of them on the free list."""
        cdef page *table = <page *>realloc(self.pages, (self.nr_pages + count) * sizeof(page))
        cdef uint32_t i
        if table is NULL:
            return -ENOMEM
        memset(table + self.nr_pages, 0, count * sizeof(page))
        self.pages = table
        for i in range(self.nr_pages + count, self.nr_pages, -1):
            table[i - 1].next = self.free_page
            self.free_page = <int32_t>(i - 1)
        self.nr_pages += count
        self.nr_free += count
        return 0

    def reserve(self, uint32_t pages):
        """Let the pool hold at least so many pages.  HypervisorError: the grant table is full."""
        cdef uint32_t i, first = self.nr_pages, count = max(pages, self.nr_pages) - self.nr_pages
        cdef Shared area
        if count == 0:
            return
        area = None if self.fresh else self.sharer.share(self.domid, count)
        check(self.add(count), "more data pages")
        if area is None:
            return
        self.areas.append(area)
        for i in range(count):
            self.pages[first + i].address = <char *>area.address + <size_t>i * XENVBD_PAGE_SIZE
            self.pages[first + i].gref = area.refs[i]

    cdef int32_t get(self, uint32_t count, bint writable) noexcept nogil:
        """A list of so many pages, granted; -1 if they cannot be granted."""
        cdef int32_t head = self.free_page, last = head
        cdef uint32_t _i
        for _i in range(count - 1):
            last = self.pages[last].next
        if self.fresh and self.grant(head, count, writable) < 0:
            return -1
        self.free_page = self.pages[last].next
        self.pages[last].next = -1
        self.nr_free -= count
        return head

    cdef int grant(self, int32_t head, uint32_t count, bint writable) noexcept nogil:
        """Fresh pages behind a list of table entries."""
        cdef uint32_t[256] refs
        cdef void *address = NULL
        cdef uint32_t i
        cdef int rc = self.hypervisor.c.gntshr.share(self.sharer._handle, self.domid, count, refs, writable, &address)
        for i in range(count if rc >= 0 else 0):
            self.pages[head].address = <char *>address + <size_t>i * XENVBD_PAGE_SIZE
            self.pages[head].gref = refs[i]
            head = self.pages[head].next
        return rc

    cdef int put(self, int32_t head, uint32_t count) noexcept nogil:
        """Give a list of count pages back; a negative errno: the backend still holds one of them."""
        cdef int32_t last = head
        cdef uint32_t _i
        cdef int rc = 0
        if self.fresh:
            rc = self.hypervisor.c.gntshr.unshare(self.sharer._handle, self.pages[head].address, count)
        for _i in range(count - 1):
            last = self.pages[last].next
        self.pages[last].next = self.free_page
        self.free_page = head
        self.nr_free += count
        return rc

    def close(self):
        """Take every page back, those in use as well."""
        for area in self.areas:
            area.unshare()
        self.areas = []
        self.sharer.close()
