/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: its domains, a file each, and this process's view of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine_impl.h"

int domain_create(int dir, struct shared *shared, unsigned domid)
{
    char name[64];
    uint32_t serial = ++shared->serials;
    int fd, rc;
    machine_file_name(name, "domain", domid, serial);
    fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
    if (fd < 0)
        return -errno;
    rc = ftruncate(fd, MEMORY_OFFSET + MEMORY_SIZE) ? -errno : 0;
    close(fd);
    if (rc)
        unlinkat(dir, name, 0);
    else
        atomic_store(&shared->domain_serial[domid], serial);
    return rc;
}

static int domain_map(struct xenvbd_machine *m, struct domain *d)
{
    char name[64];
    uint8_t *base;
    machine_file_name(name, "domain", d->domid, d->serial);
    d->fd = openat(m->dir, name, O_RDWR | O_CLOEXEC);
    if (d->fd < 0)
        return -errno;
    base = mmap(NULL, MEMORY_OFFSET + MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
    if (base == MAP_FAILED) {
        close(d->fd);
        return -ENOMEM;
    }
    madvise(base, MEMORY_OFFSET + MEMORY_SIZE, MADV_DONTDUMP);     /* no guest data in a core */
    d->control = (struct control *)base;
    d->memory = base + MEMORY_OFFSET;
    return 0;
}

void domain_unmap(struct domain *d)
{
    munmap(d->control, MEMORY_OFFSET + MEMORY_SIZE);
    close(d->fd);
    free(d);
}

/* Mapping is dear and most domains come back: an unused one is kept until it is gone from the machine. */
static void domains_prune(struct xenvbd_machine *m)
{
    struct domain **link = &m->domains;
    while (*link) {
        struct domain *d = *link;
        if (d->users || domain_serial(m, d->domid) == d->serial) {
            link = &d->next;
            continue;
        }
        *link = d->next;
        domain_unmap(d);
    }
}

static struct domain *domain_find(struct xenvbd_machine *m, unsigned domid, uint32_t serial)
{
    struct domain *d = m->domains;
    while (d && d->serial != serial)
        d = d->next;
    if (d)
        return d;
    domains_prune(m);
    d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->domid = domid;
    d->serial = serial;
    if (domain_map(m, d)) {
        free(d);
        return NULL;
    }
    d->next = m->domains;
    m->domains = d;
    return d;
}

struct domain *domain_get(struct xenvbd_machine *m, unsigned domid)
{
    uint32_t serial = domain_serial(m, domid);
    struct domain *d;
    if (!serial)
        return NULL;
    pthread_mutex_lock(&m->mutex);
    d = domain_find(m, domid, serial);
    if (d)
        d->users++;
    pthread_mutex_unlock(&m->mutex);
    return d;
}

void domain_put(struct xenvbd_machine *m, struct domain *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&m->mutex);
    if (!--d->users)
        domains_prune(m);
    pthread_mutex_unlock(&m->mutex);
}

bool machine_alive(const struct xenvbd_machine *m)
{
    return m->own && domain_serial(m, m->domid) == m->own->serial;
}

int xenvbd_machine_add_domain(struct xenvbd_machine *m, int domid)
{
    int rc;
    if (domid < 0 || domid >= DOMAINS)
        return -EINVAL;
    machine_lock(m);
    rc = domain_serial(m, domid) ? -EEXIST : domain_create(m->dir, m->shared, domid);
    machine_unlock(m);
    return rc;
}

static void domain_destroy(struct xenvbd_machine *m, struct domain *d)
{
    char name[64];
    for (uint32_t port = 1; port < d->control->ports_used; port++)
        port_close(m, d, port);
    for (uint32_t gref = 0; gref < d->control->grefs_used; gref++)
        atomic_store(&d->control->grants[gref], 0);
    atomic_store(&m->shared->domain_serial[d->domid], 0);
    machine_file_name(name, "domain", d->domid, d->serial);
    unlinkat(m->dir, name, 0);
}

int xenvbd_machine_remove_domain(struct xenvbd_machine *m, int domid)
{
    struct domain *d;
    machine_lock(m);
    d = domain_get(m, domid);
    if (d)
        domain_destroy(m, d);
    machine_unlock(m);
    domain_put(m, d);
    return d ? 0 : -ESRCH;
}

uint32_t xenvbd_machine_domain_serial(struct xenvbd_machine *m, int domid)
{
    return domain_serial(m, domid);
}

int xenvbd_machine_next_domain(struct xenvbd_machine *m, int after)
{
    for (int domid = after + 1; domid >= 0 && domid < DOMAINS; domid++)
        if (domain_serial(m, domid))
            return domid;
    return -ENOENT;
}
