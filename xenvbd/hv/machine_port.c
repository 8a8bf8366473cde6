/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: binding and closing ports, after Xen's evtchn_alloc_unbound(),
 * evtchn_bind_interdomain() and evtchn_close(), and the rules of Linux's IOCTL_EVTCHN_*.
 */
#include <errno.h>
#include <stdlib.h>

#include "machine_evtchn.h"

/* IOCTL_EVTCHN_RESTRICT_DOMID: once, and not to domain 0. */
int evtchn_restrict(void *handle, uint32_t domid)
{
    struct evtchn *h = handle;
    if (h->restricted != UNRESTRICTED)
        return -EACCES;
    if (domid == 0 || domid >= DOMAINS)
        return -EINVAL;
    h->restricted = domid;
    return 0;
}

/* The lowest free port of the domain; the lock is held. */
static int port_find(struct control *control)
{
    uint32_t port = 1;
    while (port < XENVBD_MACHINE_PORTS && atomic_load(&control->ports[port].link))
        port++;
    if (port == XENVBD_MACHINE_PORTS)
        return -ENOSPC;
    if (port >= control->ports_used)
        control->ports_used = port + 1;
    return port;
}

/* Make a port ours with its first link; the lock is held, and there is room in h->ports. */
static struct port *port_take(struct evtchn *h, uint32_t number, uint64_t link, bool pending)
{
    struct port *port = &h->m->own->control->ports[number];
    struct local_port *lp = &h->ports[h->count];
    atomic_store(&port->pending, pending);
    atomic_store(&port->masked, 0);
    atomic_store(&port->owner, bell_owner(h->bell, h->index));
    atomic_store(&port->link, link);
    *lp = (struct local_port){.number = number, .port = port, .fd = -1};
    h->slot[number] = h->count++;
    return port;
}

static int evtchn_room(struct evtchn *h)
{
    struct local_port *ports = realloc(h->ports, (h->count + 1) * sizeof(*ports));
    if (!ports)
        return -ENOMEM;
    h->ports = ports;
    return 0;
}

static int bind_unbound(struct evtchn *h, uint32_t remote)
{
    int port = machine_alive(h->m) ? port_find(h->m->own->control) : -ENODEV;
    if (port > 0)
        port_take(h, port, LINK(XENVBD_PORT_UNBOUND, remote, 0), false);
    return port;
}

int evtchn_bind_unbound(void *handle, uint32_t remote)
{
    struct evtchn *h = handle;
    int rc;
    if (fault(h->m, XENVBD_FAULT_BIND, &rc))
        return rc;
    if (h->restricted != UNRESTRICTED)
        return -EACCES;
    if (remote > UINT16_MAX)
        return -EINVAL;
    rc = evtchn_room(h);
    if (rc)
        return rc;
    machine_lock(h->m);
    rc = bind_unbound(h, remote);
    if (rc == -ENOSPC) {
        machine_reap(h->m);
        rc = bind_unbound(h, remote);
    }
    machine_unlock(h->m);
    return rc;
}

static int bind_to(struct evtchn *h, struct domain *d, uint32_t remote_port)
{
    struct port *remote = &d->control->ports[remote_port];
    int port;
    if (atomic_load(&remote->link) != LINK(XENVBD_PORT_UNBOUND, h->m->domid, 0))
        return -EINVAL;
    port = port_find(h->m->own->control);
    if (port < 0)
        return port;
    /* Our end first: if we die now, nothing points back at it and theirs is UNBOUND still.  It starts
     * pending: events may have been lost while theirs was unbound. */
    port_take(h, port, LINK(XENVBD_PORT_INTERDOMAIN, d->domid, remote_port), true);
    atomic_store(&remote->link, LINK(XENVBD_PORT_INTERDOMAIN, h->m->domid, port));
    bell_ring_own(h);
    return port;
}

static int bind_interdomain(struct evtchn *h, uint32_t remote_domid, uint32_t remote_port)
{
    struct domain *d;
    int rc;
    if (!machine_alive(h->m))
        return -ENODEV;
    d = domain_get(h->m, remote_domid);
    if (!d)
        return -ESRCH;
    rc = bind_to(h, d, remote_port);
    domain_put(h->m, d);
    return rc;
}

int evtchn_bind_interdomain(void *handle, uint32_t remote_domid, uint32_t remote_port)
{
    struct evtchn *h = handle;
    int rc;
    if (fault(h->m, XENVBD_FAULT_BIND, &rc))
        return rc;
    if (h->restricted != UNRESTRICTED && h->restricted != remote_domid)
        return -EACCES;
    if (remote_port == 0 || remote_port >= XENVBD_MACHINE_PORTS)
        return -EINVAL;
    rc = evtchn_room(h);
    if (rc)
        return rc;
    machine_lock(h->m);
    rc = bind_interdomain(h, remote_domid, remote_port);
    if (rc == -EINVAL || rc == -ENOSPC) {
        machine_reap(h->m);                 /* perhaps a dead process still has it */
        rc = bind_interdomain(h, remote_domid, remote_port);
    }
    machine_unlock(h->m);
    return rc;
}

/* Their end waits for us again.  The lock is held; done before our end is freed, so that it can be done
 * twice. */
static void peer_unbind(struct xenvbd_machine *m, struct domain *d, uint32_t number, uint64_t link)
{
    uint64_t back = LINK(XENVBD_PORT_INTERDOMAIN, d->domid, number);
    struct domain *remote = domain_get(m, LINK_DOMID(link));
    if (!remote)
        return;
    atomic_compare_exchange_strong(&remote->control->ports[LINK_PORT(link)].link, &back,
                                   LINK(XENVBD_PORT_UNBOUND, d->domid, 0));
    domain_put(m, remote);
}

void port_close(struct xenvbd_machine *m, struct domain *d, uint32_t number)
{
    struct port *port = &d->control->ports[number];
    uint64_t link = atomic_load(&port->link);
    if (LINK_STATE(link) == XENVBD_PORT_INTERDOMAIN)
        peer_unbind(m, d, number, link);
    atomic_store(&port->link, 0);
    atomic_store(&port->owner, 0);
}

static void local_remove(struct evtchn *h, struct local_port *lp)
{
    struct local_port *last = &h->ports[h->count - 1];
    local_forget(h, lp);
    h->slot[lp->number] = -1;
    if (lp != last) {
        *lp = *last;
        h->slot[lp->number] = lp - h->ports;
    }
    h->count--;
}

int evtchn_unbind(void *handle, uint32_t number)
{
    struct evtchn *h = handle;
    struct local_port *lp = local_port(h, number);
    int rc;
    if (number >= XENVBD_MACHINE_PORTS)
        return -EINVAL;
    if (!lp)
        return -ENOTCONN;
    if (fault(h->m, XENVBD_FAULT_UNBIND, &rc))
        return rc;
    machine_lock(h->m);
    port_close(h->m, h->m->own, number);
    machine_unlock(h->m);
    local_remove(h, lp);
    return 0;
}

int xenvbd_machine_port(struct xenvbd_machine *m, int domid, uint32_t number, struct xenvbd_port_info *info)
{
    struct domain *d;
    struct port *port;
    uint64_t link;
    if (number == 0 || number >= XENVBD_MACHINE_PORTS)
        return -EINVAL;
    d = domain_get(m, domid);
    if (!d)
        return -ESRCH;
    port = &d->control->ports[number];
    link = atomic_load(&port->link);
    *info = (struct xenvbd_port_info){LINK_STATE(link), LINK_DOMID(link), LINK_PORT(link),
                                      atomic_load(&port->pending), atomic_load(&port->masked)};
    domain_put(m, d);
    return 0;
}

int xenvbd_machine_last_port(struct xenvbd_machine *m, int domid)
{
    struct domain *d = domain_get(m, domid);
    int last;
    if (!d)
        return -ESRCH;
    last = d->control->ports_used ? (int)d->control->ports_used - 1 : 0;
    domain_put(m, d);
    return last;
}
