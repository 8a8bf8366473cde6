/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: the grant table as its owner uses it: sharing pages (xengntshr), and writing entries
 * as a guest's kernel can, sane or hostile.  Page n of a domain's memory is what share() grants as gref n.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine_impl.h"

struct local_share {
    struct local_share *next;
    void *address;
    uint32_t first, count;
};

struct gntshr {
    struct xenvbd_machine *m;
    struct local_share *shares;
};

/* -- Finding free pages; the lock is held ---------------------------------------------------------------- */

/* The highest frame of [first, first + count) that somebody has mapped, 0: nobody any. */
static uint32_t frames_mapped(struct xenvbd_machine *m, const struct domain *d, uint32_t first,
                              uint32_t count)
{
    uint32_t highest = 0;
    for (uint32_t i = 0; i < m->shared->mappings_used; i++) {
        const struct mapping *mapping = &m->shared->mappings[i];
        if (atomic_load(&mapping->member) && mapping->domain_serial == d->serial
            && mapping->frame - first < count && mapping->frame > highest)
            highest = mapping->frame;
    }
    return highest;
}

/* The highest gref of [first, first + count) that is in use, 0: none. */
static uint32_t grefs_allocated(const struct domain *d, uint32_t first, uint32_t count)
{
    for (uint32_t gref = first + count; gref-- > first;)
        if (atomic_load(&d->control->grants[gref]))
            return gref;
    return 0;
}

/* The first run of free grefs in [from, to). */
static int grefs_scan(struct xenvbd_machine *m, const struct domain *d, uint32_t from, uint32_t to,
                      uint32_t count)
{
    while (from < to && count <= to - from) {
        uint32_t taken = grefs_allocated(d, from, count);
        if (!taken)
            taken = frames_mapped(m, d, from, count);
        if (!taken)
            return from;
        from = taken + 1;
    }
    return -ENOSPC;
}

/* Next fit: a gref that was just given back is the last to be used again, so that stale ones are noticed. */
static int grefs_find(struct xenvbd_machine *m, struct domain *d, uint32_t count)
{
    uint32_t hint = d->control->gref_hint;
    int first;
    if (hint < XENVBD_MACHINE_FIRST_GREF)
        hint = XENVBD_MACHINE_FIRST_GREF;
    first = grefs_scan(m, d, hint, XENVBD_MACHINE_GREFS, count);
    if (first < 0)
        first = grefs_scan(m, d, XENVBD_MACHINE_FIRST_GREF, XENVBD_MACHINE_GREFS, count);
    if (first < 0)
        return first;
    d->control->gref_hint = first + count;
    return first;
}

static void grefs_in_use(struct domain *d, uint32_t end)
{
    if (end > d->control->grefs_used)
        d->control->grefs_used = end;
}

/* Make them fresh: zero, and no memory behind them. */
static int frames_clear(const struct domain *d, uint32_t first, uint32_t count)
{
    return fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MEMORY_OFFSET + (off_t)first * PAGE,
                     (off_t)count * PAGE) ? -errno : 0;
}

/* -- Share, unshare -------------------------------------------------------------------------------------- */

static int grefs_grant(struct gntshr *h, struct local_share *share, uint64_t flags, uint32_t domid)
{
    struct domain *d = h->m->own;
    int rc, first = grefs_find(h->m, d, share->count);
    if (first == -ENOSPC) {
        machine_reap(h->m);
        first = grefs_find(h->m, d, share->count);
    }
    if (first < 0)
        return first;
    rc = frames_clear(d, first, share->count);
    if (rc)
        return rc;
    share->first = first;
    grefs_in_use(d, first + share->count);
    for (uint32_t i = 0; i < share->count; i++)
        atomic_store(&d->control->grants[first + i], GRANT(flags, domid, first + i));
    return 0;
}

static void grefs_revoke(struct xenvbd_machine *m, const struct local_share *share)
{
    struct domain *d = m->own;
    machine_lock(m);
    for (uint32_t i = 0; i < share->count; i++)
        atomic_store(&d->control->grants[share->first + i], 0);
    if (!frames_mapped(m, d, share->first, share->count))
        frames_clear(d, share->first, share->count);
    machine_unlock(m);
}

static int share_make(struct gntshr *h, struct local_share *share, uint64_t flags, uint32_t domid)
{
    int rc;
    machine_lock(h->m);
    rc = machine_alive(h->m) ? grefs_grant(h, share, flags, domid) : -ENODEV;
    machine_unlock(h->m);
    if (rc)
        return rc;
    rc = xenvbd_machine_memory(h->m, h->m->domid, share->first, share->count, &share->address);
    if (rc)
        grefs_revoke(h->m, share);
    return rc;
}

static int gntshr_share(void *handle, uint32_t domid, uint32_t count, uint32_t *refs, int writable,
                        void **address)
{
    struct gntshr *h = handle;
    struct local_share *share;
    int rc;
    if (fault(h->m, XENVBD_FAULT_SHARE, &rc))
        return rc;
    if (count == 0 || count > XENVBD_MACHINE_GREFS || domid > UINT16_MAX)
        return -EINVAL;
    share = calloc(1, sizeof(*share));
    if (!share)
        return -ENOMEM;
    share->count = count;
    rc = share_make(h, share, GRANT_ALLOCATED | GRANT_PERMITTED | (writable ? 0 : GRANT_READONLY), domid);
    if (rc) {
        free(share);
        return rc;
    }
    for (uint32_t i = 0; i < count; i++)
        refs[i] = share->first + i;
    share->next = h->shares;
    h->shares = share;
    *address = share->address;
    return 0;
}

static void share_undo(struct gntshr *h, struct local_share **link)
{
    struct local_share *share = *link;
    *link = share->next;
    munmap(share->address, (size_t)share->count * PAGE);
    if (h->m->pid == getpid())
        grefs_revoke(h->m, share);
    free(share);
}

static int gntshr_unshare(void *handle, void *address, uint32_t count)
{
    struct gntshr *h = handle;
    struct local_share **link = &h->shares;
    int rc;
    if (fault(h->m, XENVBD_FAULT_UNSHARE, &rc))
        return rc;
    while (*link && (*link)->address != address)
        link = &(*link)->next;
    if (!*link || (*link)->count != count)
        return -EINVAL;
    share_undo(h, link);
    return 0;
}

static int gntshr_open(void *machine, void **handle)
{
    struct xenvbd_machine *m = machine;
    struct gntshr *h;
    int rc;
    if (fault(m, XENVBD_FAULT_OPEN, &rc))
        return rc;
    if (!machine_alive(m))
        return -ENODEV;
    h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->m = m;
    *handle = h;
    return 0;
}

static int gntshr_close(void *handle)
{
    struct gntshr *h = handle;
    while (h->shares)
        share_undo(h, &h->shares);
    free(h);
    return 0;
}

const struct xenvbd_gntshr_ops machine_gntshr_ops = {
    .open = gntshr_open,
    .close = gntshr_close,
    .share = gntshr_share,
    .unshare = gntshr_unshare,
};

/* -- What a guest's kernel may do ------------------------------------------------------------------------ */

int xenvbd_machine_memory(struct xenvbd_machine *m, int domid, uint32_t frame, uint32_t count, void **address)
{
    struct domain *d;
    int rc = 0;
    if (count == 0 || frame >= XENVBD_MACHINE_GREFS || count > XENVBD_MACHINE_GREFS - frame)
        return -EINVAL;
    d = domain_get(m, domid);
    if (!d)
        return -ESRCH;
    *address = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd,
                    MEMORY_OFFSET + (off_t)frame * PAGE);
    if (*address == MAP_FAILED)
        rc = -errno;
    else
        madvise(*address, (size_t)count * PAGE, MADV_DONTDUMP);
    domain_put(m, d);
    return rc;
}

int xenvbd_machine_set_grant(struct xenvbd_machine *m, int domid, uint32_t gref,
                             const struct xenvbd_grant_info *info)
{
    struct domain *d;
    uint64_t permitted = info->permitted ? GRANT_PERMITTED : 0;
    uint64_t flags = GRANT_ALLOCATED | permitted | (info->readonly ? GRANT_READONLY : 0);
    if (gref >= XENVBD_MACHINE_GREFS || info->remote_domid > UINT16_MAX)
        return -EINVAL;
    machine_lock(m);
    d = domain_get(m, domid);
    if (d) {
        grefs_in_use(d, gref + 1);
        atomic_store(&d->control->grants[gref],
                     info->allocated ? GRANT(flags, info->remote_domid, info->frame) : 0);
    }
    machine_unlock(m);
    domain_put(m, d);
    return d ? 0 : -ESRCH;
}

int xenvbd_machine_grant_info(struct xenvbd_machine *m, int domid, uint32_t gref,
                              struct xenvbd_grant_info *info)
{
    struct domain *d;
    uint64_t entry;
    if (gref >= XENVBD_MACHINE_GREFS)
        return -EINVAL;
    d = domain_get(m, domid);
    if (!d)
        return -ESRCH;
    entry = atomic_load(&d->control->grants[gref]);
    *info = (struct xenvbd_grant_info){!!(entry & GRANT_ALLOCATED), !!(entry & GRANT_PERMITTED),
                                       !!(entry & GRANT_READONLY), GRANT_DOMID(entry), GRANT_FRAME(entry)};
    domain_put(m, d);
    return 0;
}

int xenvbd_machine_last_gref(struct xenvbd_machine *m, int domid)
{
    struct domain *d = domain_get(m, domid);
    int last;
    if (!d)
        return -ESRCH;
    last = d->control->grefs_used ? (int)d->control->grefs_used - 1 : 0;
    domain_put(m, d);
    return last;
}
