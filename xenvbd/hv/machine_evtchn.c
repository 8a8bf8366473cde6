/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: event channels, as Xen's common/event_channel.c and Linux's /dev/xen/evtchn have
 * them.
 *
 * A handle's bell is a FIFO.  Whoever makes a port pending rings it, unless a byte is in it already; the
 * owner empties it when nothing is pending any more.  `rung` says whether a byte is in it; its upper bits
 * count the emptyings, so that a ringer that was slow, or killed, between writing the byte and saying so
 * cannot leave a silent "rung" behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine_evtchn.h"

/* -- Bells ----------------------------------------------------------------------------------------------- */

static void bell_ring(struct bell *bell, uint32_t serial, int fd)
{
    uint64_t rung = atomic_load(&bell->rung);
    if (rung & 1 || rung >> 32 != serial)
        return;
    /* A full FIFO is readable too. */
    if (write(fd, "", 1) == 1 || errno == EAGAIN)
        atomic_compare_exchange_strong(&bell->rung, &rung, rung | 1);
}

void bell_ring_own(struct evtchn *h)
{
    bell_ring(h->bell, atomic_load(&h->bell->rung) >> 32, h->fd);
}

static int bell_open(struct xenvbd_machine *m, uint64_t owner)
{
    char name[64];
    machine_file_name(name, "evtchn", (uint32_t)owner, owner >> 32);
    /* Read and write: neither ENXIO nor SIGPIPE when the owner has died meanwhile. */
    return openat(m->dir, name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

/* The lock is held.  d: the domain it belongs to, NULL if that is gone (and its ports with it). */
void bell_free(struct xenvbd_machine *m, struct domain *d, uint32_t index)
{
    struct bell *bell = &m->shared->bells[index];
    uint64_t owner = bell_owner(bell, index);
    char name[64];
    for (uint32_t port = 1; d && port < d->control->ports_used; port++)
        if (atomic_load(&d->control->ports[port].owner) == owner)
            port_close(m, d, port);
    machine_file_name(name, "evtchn", index, owner >> 32);
    unlinkat(m->dir, name, 0);
    atomic_store(&bell->member, 0);
}

/* Take a free bell; the lock is held. */
static int bell_take(struct evtchn *h)
{
    struct xenvbd_machine *m = h->m;
    uint64_t serial = ++m->shared->serials;
    char name[64];
    for (h->index = 0; h->index < HANDLES; h->index++)
        if (!atomic_load(&m->shared->bells[h->index].member))
            break;
    if (h->index == HANDLES)
        return -ENFILE;
    h->bell = &m->shared->bells[h->index];
    atomic_store(&h->bell->rung, serial << 32);
    atomic_store(&h->bell->member, m->member);
    machine_file_name(name, "evtchn", h->index, serial);
    if (mkfifoat(m->dir, name, 0660))
        return -errno;
    h->fd = bell_open(m, bell_owner(h->bell, h->index));
    return h->fd < 0 ? -errno : 0;
}

/* -- Open, close ----------------------------------------------------------------------------------------- */

void local_forget(struct evtchn *h, struct local_port *lp)
{
    domain_put(h->m, lp->domain);
    lp->domain = NULL;
    lp->link = 0;
    if (lp->fd >= 0)
        close(lp->fd);
    lp->fd = -1;
    lp->owner = 0;
}

static int evtchn_close(void *handle)
{
    struct evtchn *h = handle;
    for (uint32_t i = 0; i < h->count; i++)
        local_forget(h, &h->ports[i]);
    if (h->bell && h->m->pid == getpid()) {
        machine_lock(h->m);
        bell_free(h->m, h->m->own, h->index);
        machine_unlock(h->m);
    }
    if (h->fd >= 0)
        close(h->fd);
    free(h->ports);
    free(h);
    return 0;
}

static int evtchn_open(void *machine, void **handle)
{
    struct xenvbd_machine *m = machine;
    struct evtchn *h;
    int rc;
    if (fault(m, XENVBD_FAULT_OPEN, &rc))
        return rc;
    if (!machine_alive(m))
        return -ENODEV;
    h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->m = m;
    h->fd = -1;
    h->restricted = UNRESTRICTED;
    memset(h->slot, -1, sizeof(h->slot));
    machine_lock(m);
    machine_reap(m);
    rc = bell_take(h);
    machine_unlock(m);
    if (rc)
        evtchn_close(h);
    else
        *handle = h;
    return rc;
}

/* What another process is given of a handle: whom it is restricted to.  A handle of the real machine is an open
 * file; here it is this process's, so the other one makes its own. */
static int evtchn_share(void *handle)
{
    struct evtchn *h = handle;
    int fd = memfd_create("evtchn", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (pwrite(fd, &h->restricted, sizeof(h->restricted), 0) == sizeof(h->restricted))
        return fd;
    close(fd);
    return -EIO;
}

static int evtchn_fdopen(void *machine, int fd, void **handle)
{
    uint32_t restricted;
    int rc;
    if (pread(fd, &restricted, sizeof(restricted), 0) != sizeof(restricted))
        return -EINVAL;
    rc = evtchn_open(machine, handle);
    if (!rc)
        ((struct evtchn *)*handle)->restricted = restricted;
    return rc;
}

static int evtchn_fd(void *handle)
{
    return ((struct evtchn *)handle)->fd;
}

/* -- Events: no lock from here on ------------------------------------------------------------------------ */

static bool port_ready(const struct local_port *lp)
{
    return atomic_load(&lp->port->pending) && !atomic_load(&lp->port->masked);
}

static bool evtchn_ready(const struct evtchn *h)
{
    for (uint32_t i = 0; i < h->count; i++)
        if (port_ready(&h->ports[i]))
            return true;
    return false;
}

/* Look up the way to the other end again. */
static bool local_resolve(struct evtchn *h, struct local_port *lp, uint64_t link)
{
    local_forget(h, lp);
    lp->domain = domain_get(h->m, LINK_DOMID(link));
    if (!lp->domain)
        return false;
    lp->peer = &lp->domain->control->ports[LINK_PORT(link)];
    lp->link = link;
    return true;
}

static void peer_ring(struct evtchn *h, struct local_port *lp)
{
    uint64_t owner = atomic_load(&lp->peer->owner);
    if (owner != lp->owner) {
        if (lp->fd >= 0)
            close(lp->fd);
        lp->fd = bell_open(h->m, owner);
        lp->owner = lp->fd >= 0 ? owner : 0;
    }
    if (lp->fd >= 0)
        bell_ring(&h->m->shared->bells[(uint32_t)owner % HANDLES], owner >> 32, lp->fd);
}

static int evtchn_notify(void *handle, uint32_t number)
{
    struct evtchn *h = handle;
    struct local_port *lp = local_port(h, number);
    uint64_t link;
    int rc;
    if (!lp)
        return -ENOTCONN;
    if (fault(h->m, XENVBD_FAULT_NOTIFY, &rc))
        return rc;
    link = atomic_load(&lp->port->link);
    if (LINK_STATE(link) != XENVBD_PORT_INTERDOMAIN || fault(h->m, XENVBD_FAULT_NOTIFY_LOST, &rc))
        return 0;                           /* Xen drops it without a word */
    if ((link != lp->link || lp->domain->serial != domain_serial(h->m, LINK_DOMID(link)))
        && !local_resolve(h, lp, link))
        return 0;
    if (atomic_load(&lp->peer->link) != LINK(XENVBD_PORT_INTERDOMAIN, h->m->domid, number))
        return 0;
    atomic_store(&lp->peer->pending, 1);
    if (!atomic_load(&lp->peer->masked))
        peer_ring(h, lp);
    return 0;
}

/* Empty the bell; ring it again if a port became pending before its ringer could see that it was empty. */
static void evtchn_quiet(struct evtchn *h)
{
    char bytes[64];
    uint64_t rung;
    while (read(h->fd, bytes, sizeof(bytes)) == sizeof(bytes))
        ;
    rung = atomic_load(&h->bell->rung);
    atomic_store(&h->bell->rung, rung >> 32 << 32 | (uint32_t)((rung | 1) + 1));
    if (evtchn_ready(h))
        bell_ring_own(h);
}

/* Take the next port that is ready: mask it, then clear its pending bit.  An event that comes between is the
 * same one for the caller, who has not looked at the ring yet. */
static int evtchn_take(struct evtchn *h)
{
    for (uint32_t i = 0; i < h->count; i++) {
        struct local_port *lp = &h->ports[(h->next + i) % h->count];
        if (!port_ready(lp))
            continue;
        atomic_store(&lp->port->masked, 1);
        atomic_store(&lp->port->pending, 0);
        h->next = (h->next + i + 1) % h->count;
        return lp->number;
    }
    return -EAGAIN;
}

static int evtchn_pending(void *handle)
{
    struct evtchn *h = handle;
    int port = evtchn_take(h);
    if (port < 0) {
        /* The fd may be readable nonetheless: a late ringer, or a port that was unbound. */
        evtchn_quiet(h);
        port = evtchn_take(h);
    }
    if (port > 0 && atomic_load(&h->bell->rung) & 1 && !evtchn_ready(h))
        evtchn_quiet(h);
    return port;
}

/* A port that is not ours is ignored, as by the device. */
static int evtchn_unmask(void *handle, uint32_t number)
{
    struct evtchn *h = handle;
    struct local_port *lp = local_port(h, number);
    int rc;
    if (fault(h->m, XENVBD_FAULT_UNMASK, &rc))
        return rc;
    if (!lp)
        return 0;
    atomic_store(&lp->port->masked, 0);
    if (atomic_load(&lp->port->pending))
        bell_ring_own(h);
    return 0;
}

const struct xenvbd_evtchn_ops machine_evtchn_ops = {
    .open = evtchn_open,
    .close = evtchn_close,
    .share = evtchn_share,
    .fdopen = evtchn_fdopen,
    .fd = evtchn_fd,
    .restrict_domid = evtchn_restrict,
    .bind_unbound = evtchn_bind_unbound,
    .bind_interdomain = evtchn_bind_interdomain,
    .unbind = evtchn_unbind,
    .notify = evtchn_notify,
    .pending = evtchn_pending,
    .unmask = evtchn_unmask,
};
