/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hypervisor seam: three tables of functions (event channels, grant table, grant sharing).
 * One set is filled from libxenevtchn and libxengnttab, one from the simulated machine; an object
 * holds them, never a global.  Every function returns 0 or a positive result, or a negative errno;
 * none takes the GIL.  The meaning of each is that of the libxen function it is named after.
 */
#ifndef XENVBD_HYPERVISOR_H
#define XENVBD_HYPERVISOR_H

#include <stdint.h>
#include <xengnttab.h>

/* <xenevtchn.h>.  A handle belongs to one thread. */
struct xenvbd_evtchn_ops {
    int (*open)(void *machine, void **handle);
    int (*close)(void *handle);                       /* every port bound here is closed with it */
    int (*share)(void *handle);                       /* -> fd, for another process; stays when the handle goes */
    int (*fdopen)(void *machine, int fd, void **handle);    /* of such an fd, as restricted; it stays the caller's */
    int (*fd)(void *handle);                          /* readable while a port is pending */
    int (*restrict_domid)(void *handle, uint32_t domid);
    int (*bind_unbound)(void *handle, uint32_t remote_domid);                       /* -> port */
    int (*bind_interdomain)(void *handle, uint32_t remote_domid, uint32_t remote_port); /* -> port */
    int (*unbind)(void *handle, uint32_t port);
    int (*notify)(void *handle, uint32_t port);
    int (*pending)(void *handle);                     /* -> port, masked until unmask(); -EAGAIN: none */
    int (*unmask)(void *handle, uint32_t port);
};

/* <xengnttab.h>, the mapping and copying side.  A handle belongs to one thread. */
struct xenvbd_gnttab_ops {
    int (*open)(void *machine, void **handle);
    int (*close)(void *handle);                       /* every mapping is undone with it */
    int (*set_max_grants)(void *handle, uint32_t count);
    int (*map)(void *handle, uint32_t domid, const uint32_t *refs, uint32_t count, int prot,
               void **address);                       /* count pages, contiguous */
    int (*unmap)(void *handle, void *address, uint32_t count);
    int (*copy)(void *handle, xengnttab_grant_copy_segment_t *segments, uint32_t count);
                                                      /* 0 says nothing: look at each segment's status */
};

/* <xengnttab.h>, the sharing side (xengntshr): used by our own frontend only. */
struct xenvbd_gntshr_ops {
    int (*open)(void *machine, void **handle);
    int (*close)(void *handle);
    int (*share)(void *handle, uint32_t domid, uint32_t count, uint32_t *refs, int writable,
                 void **address);                     /* count fresh zeroed pages, contiguous; refs filled */
    int (*unshare)(void *handle, void *address, uint32_t count);
};

/* A machine as one of its domains sees it. */
struct xenvbd_hypervisor {
    const struct xenvbd_evtchn_ops *evtchn;
    const struct xenvbd_gnttab_ops *gnttab;
    const struct xenvbd_gntshr_ops *gntshr;
    void *machine;                                    /* first argument of every open() */
};

#endif
