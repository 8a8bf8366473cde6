/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Inside the simulated machine: an open event-channel handle.
 */
#ifndef XENVBD_MACHINE_EVTCHN_H
#define XENVBD_MACHINE_EVTCHN_H

#include "machine_impl.h"

#define UNRESTRICTED UINT32_MAX

/* A port bound through a handle, and the way to its other end as it was when last looked up. */
struct local_port {
    uint32_t number;
    struct port *port;
    uint64_t link;                  /* what `domain` and `peer` belong to; 0: nothing */
    struct domain *domain;
    struct port *peer;
    uint64_t owner;                 /* whose bell `fd` is */
    int fd;
};

/* An open handle. */
struct evtchn {
    struct xenvbd_machine *m;
    struct bell *bell;
    uint32_t index;
    int fd;
    uint32_t restricted;
    uint32_t count, next;           /* local ports, and where the next look begins */
    struct local_port *ports;
    int16_t slot[XENVBD_MACHINE_PORTS];     /* port -> index in ports, -1: not ours */
};

static inline struct local_port *local_port(struct evtchn *h, uint32_t port)
{
    return port < XENVBD_MACHINE_PORTS && h->slot[port] >= 0 ? &h->ports[h->slot[port]] : NULL;
}

void local_forget(struct evtchn *h, struct local_port *lp);     /* the way to the other end */
void bell_ring_own(struct evtchn *h);

int evtchn_restrict(void *handle, uint32_t domid);
int evtchn_bind_unbound(void *handle, uint32_t remote_domid);
int evtchn_bind_interdomain(void *handle, uint32_t remote_domid, uint32_t remote_port);
int evtchn_unbind(void *handle, uint32_t number);

#endif
