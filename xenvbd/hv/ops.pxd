"""The Cython face of include/xenvbd/hypervisor.h, and the object that holds the three tables."""
from libc.stdint cimport int16_t, uint16_t, uint32_t

cdef extern from "xengnttab.h" nogil:
    ctypedef struct xengnttab_copy_foreign "":
        uint32_t ref
        uint16_t offset
        uint16_t domid
    ctypedef union xengnttab_copy_ptr "union xengnttab_copy_ptr":
        void *virt
        xengnttab_copy_foreign foreign
    ctypedef struct xengnttab_grant_copy_segment_t:
        xengnttab_copy_ptr source
        xengnttab_copy_ptr dest
        uint16_t len
        uint16_t flags
        int16_t status

cdef extern from "xen/grant_table.h" nogil:
    enum:
        GNTCOPY_source_gref
        GNTCOPY_dest_gref
        GNTST_okay
        GNTST_general_error
        GNTST_bad_domain
        GNTST_bad_gntref
        GNTST_permission_denied
        GNTST_bad_copy_arg

cdef extern from "xenvbd/hypervisor.h" nogil:
    struct xenvbd_evtchn_ops:
        int (*open)(void *machine, void **handle) noexcept nogil
        int (*close)(void *handle) noexcept nogil
        int (*fd)(void *handle) noexcept nogil
        int (*share)(void *handle) noexcept nogil
        int (*fdopen)(void *machine, int fd, void **handle) noexcept nogil
        int (*restrict_domid)(void *handle, uint32_t domid) noexcept nogil
        int (*bind_unbound)(void *handle, uint32_t remote_domid) noexcept nogil
        int (*bind_interdomain)(void *handle, uint32_t remote_domid, uint32_t remote_port) noexcept nogil
        int (*unbind)(void *handle, uint32_t port) noexcept nogil
        int (*notify)(void *handle, uint32_t port) noexcept nogil
        int (*pending)(void *handle) noexcept nogil
        int (*unmask)(void *handle, uint32_t port) noexcept nogil
    struct xenvbd_gnttab_ops:
        int (*open)(void *machine, void **handle) noexcept nogil
        int (*close)(void *handle) noexcept nogil
        int (*set_max_grants)(void *handle, uint32_t count) noexcept nogil
        int (*map)(void *handle, uint32_t domid, const uint32_t *refs, uint32_t count, int prot,
                   void **address) noexcept nogil
        int (*unmap)(void *handle, void *address, uint32_t count) noexcept nogil
        int (*copy)(void *handle, xengnttab_grant_copy_segment_t *segments, uint32_t count) noexcept nogil
    struct xenvbd_gntshr_ops:
        int (*open)(void *machine, void **handle) noexcept nogil
        int (*close)(void *handle) noexcept nogil
        int (*share)(void *handle, uint32_t domid, uint32_t count, uint32_t *refs, int writable,
                     void **address) noexcept nogil
        int (*unshare)(void *handle, void *address, uint32_t count) noexcept nogil
    struct xenvbd_hypervisor:
        const xenvbd_evtchn_ops *evtchn
        const xenvbd_gnttab_ops *gnttab
        const xenvbd_gntshr_ops *gntshr
        void *machine


cdef class Hypervisor:
    """A machine as one of its domains sees it: the tables, and which domain this is.

    spec is what hv.open() was given ("xen", "sim:DIR"); domid the own domain; store_path where its
    xenstore is reached.
    """
    cdef xenvbd_hypervisor c
    cdef readonly str spec
    cdef readonly int domid
    cdef readonly str store_path
