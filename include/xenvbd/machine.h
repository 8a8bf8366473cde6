/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: a directory on tmpfs that several processes join, each as a domain.  Plain C, no
 * Python: xenvbd/hv/sim.pyx wraps it, and a preload shim may answer libxenctrl, libxenevtchn and libxengnttab
 * from it.  Sources: xenvbd/hv/machine*.c.
 *
 * What it promises
 * - Every function returns 0 or a positive result, or a negative errno; none blocks on another process for
 *   longer than a short critical section.
 * - A process may die by SIGKILL at any time.  Its event channels are then closed and its mappings gone, as
 *   the kernel would do it: the next slow call that cares finds it dead (its lock on the machine file is
 *   free) and cleans up.
 * - A domain's memory and the grants it made outlive the process that made them (a guest's memory does not go
 *   because its kernel crashed); they go with xenvbd_machine_remove_domain().  Whoever has a page mapped
 *   keeps it.
 * - Notify, pending, unmask and grant copy take no lock.  A copy makes no system call, a notify at most one.
 * - A domain's memory is a sparse file: when the tmpfs is full, who touches a new page gets SIGBUS.
 *
 * Not simulated: grants of version 2, transitive grants, VIRQs, memory hotplug.  A mapped page is not reused
 * while it is mapped; a page that is revoked and shared again *during* a copy is not protected.
 */
#ifndef XENVBD_MACHINE_H
#define XENVBD_MACHINE_H

#include <stdint.h>
#include <sys/types.h>

#include "xenvbd/hypervisor.h"

#define XENVBD_MACHINE_PORTS 4096           /* of a domain; port 0 is not one (2-level ABI) */
#define XENVBD_MACHINE_GREFS 262144         /* of a domain; as many pages */
#define XENVBD_MACHINE_FIRST_GREF 8         /* GNTTAB_NR_RESERVED_ENTRIES: share() never gives a lower one */
#define XENVBD_MACHINE_NO_DOMAIN (-1)       /* look on as nobody */

struct xenvbd_machine;

/* -- The machine and its domains ------------------------------------------------------------------------- */

/* Make a machine in an existing directory, with domain 0.  -EEXIST: there is one. */
int xenvbd_machine_create(const char *dir);

/* Join as a domain (-ESRCH: no such domain) or only look on (XENVBD_MACHINE_NO_DOMAIN).  A machine object may
 * be used by several threads; the handles opened through it belong to one thread each. */
int xenvbd_machine_open(const char *dir, int domid, struct xenvbd_machine **machine);

/* Leave.  Every handle must have been closed; a port or mapping that is left is cleaned up.  NULL is fine.
 * In a forked child it only lets go of the child's copy. */
void xenvbd_machine_close(struct xenvbd_machine *machine);

/* The three tables and this machine as their `machine` argument. */
void xenvbd_machine_hypervisor(struct xenvbd_machine *machine, struct xenvbd_hypervisor *out);

int xenvbd_machine_add_domain(struct xenvbd_machine *machine, int domid);       /* -EEXIST, -EINVAL */
int xenvbd_machine_remove_domain(struct xenvbd_machine *machine, int domid);    /* -ESRCH */

/* A number that no two domains of this machine share, even with the same domid; 0: no such domain. */
uint32_t xenvbd_machine_domain_serial(struct xenvbd_machine *machine, int domid);

/* The lowest domid above `after` (start with -1); -ENOENT: there is none. */
int xenvbd_machine_next_domain(struct xenvbd_machine *machine, int after);

/* -- Looking at it --------------------------------------------------------------------------------------- */

/* Clean up after dead processes now; what follows then shows the world without them. */
void xenvbd_machine_reap(struct xenvbd_machine *machine);

enum xenvbd_port_state { XENVBD_PORT_FREE, XENVBD_PORT_UNBOUND, XENVBD_PORT_INTERDOMAIN };

struct xenvbd_port_info {
    enum xenvbd_port_state state;
    uint32_t remote_domid;      /* UNBOUND: whom it waits for */
    uint32_t remote_port;       /* INTERDOMAIN */
    int pending, masked;
};

/* -ESRCH: no such domain.  -EINVAL: no such port. */
int xenvbd_machine_port(struct xenvbd_machine *machine, int domid, uint32_t port,
                        struct xenvbd_port_info *info);
int xenvbd_machine_last_port(struct xenvbd_machine *machine, int domid);    /* none above was ever in use */

struct xenvbd_grant_info {
    int allocated;              /* the gref is in use, granted or revoked */
    int permitted;              /* a remote domain has access */
    int readonly;
    uint32_t remote_domid;
    uint32_t frame;             /* page of the domain's memory */
};

/* -ESRCH: no such domain.  -EINVAL: no such gref. */
int xenvbd_machine_grant_info(struct xenvbd_machine *machine, int domid, uint32_t gref,
                              struct xenvbd_grant_info *info);
int xenvbd_machine_last_gref(struct xenvbd_machine *machine, int domid);    /* none above was ever in use */

struct xenvbd_mapping_info {
    pid_t pid;                  /* of the process that has it mapped */
    uint32_t gref;
};

/* The live mappings of a domain's pages, also of one that was removed: at most `limit` are written, all are
 * counted; the count is returned. */
int xenvbd_machine_mappings(struct xenvbd_machine *machine, int domid, struct xenvbd_mapping_info *info,
                            uint32_t limit);

/* -- What a domain's own kernel may do, sane or hostile -------------------------------------------------- */

/* Write a grant table entry.  info->allocated 0 frees it; permitted 0 revokes it; a frame beyond the memory
 * gives GNTST_bad_page to who uses it.  Works on any gref, also the reserved ones (1 is xenstore's). */
int xenvbd_machine_set_grant(struct xenvbd_machine *machine, int domid, uint32_t gref,
                             const struct xenvbd_grant_info *info);

/* Map pages of a domain's memory, writable; undo with munmap().  Not counted as a mapping. */
int xenvbd_machine_memory(struct xenvbd_machine *machine, int domid, uint32_t frame, uint32_t count,
                          void **address);

/* -- Faults, for tests: they take effect in every process of the machine --------------------------------- */

enum xenvbd_fault_op {
    XENVBD_FAULT_OPEN,          /* of any handle: status = -errno */
    XENVBD_FAULT_BIND,          /* bind_interdomain, bind_unbound: -errno */
    XENVBD_FAULT_UNBIND,        /* -errno; the port stays as it was */
    XENVBD_FAULT_NOTIFY,        /* -errno; nothing is sent */
    XENVBD_FAULT_NOTIFY_LOST,   /* returns 0; nothing is sent */
    XENVBD_FAULT_UNMASK,        /* -errno; it stays masked */
    XENVBD_FAULT_MAP,           /* -errno */
    XENVBD_FAULT_UNMAP,         /* -errno; it stays mapped */
    XENVBD_FAULT_COPY,          /* a segment's status (GNTST_*); its bytes are not copied.  Counts segments */
    XENVBD_FAULT_COPY_LIE,      /* status GNTST_okay, but nothing is copied (XSA-318).  Counts segments */
    XENVBD_FAULT_COPY_CALL,     /* the whole call: -errno, no status is written */
    XENVBD_FAULT_SHARE,         /* -errno */
    XENVBD_FAULT_UNSHARE,       /* -errno; it stays shared */
    XENVBD_FAULT_OPS
};

/* Let `after` uses of op pass, then make `count` fail (0: all from then on).  domid: only uses by this
 * domain, -1: by any.  -EINVAL: no such op; -ENOSPC: too many faults armed. */
int xenvbd_machine_inject(struct xenvbd_machine *machine, enum xenvbd_fault_op op, uint32_t after, int status,
                          uint32_t count, int domid);
void xenvbd_machine_clear_faults(struct xenvbd_machine *machine);
uint64_t xenvbd_machine_fault_hits(struct xenvbd_machine *machine);             /* since create */

#endif
