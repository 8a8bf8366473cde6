/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: the grant table as a backend uses it (libxengnttab), map and copy.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine_impl.h"

/* A domain that a handle has copied from or to. */
struct known {
    unsigned domid;
    struct domain *domain;
};

struct local_mapping {
    struct local_mapping *next;
    void *address;
    uint32_t count;
    uint32_t *records;              /* indices in shared->mappings */
    struct domain *domain;
};

struct gnttab {
    struct xenvbd_machine *m;
    struct domain *last;            /* of the last copy: most handles know only one */
    struct known *known;
    uint32_t known_count;
    uint32_t mapped, limit;
    struct local_mapping *mappings;
};

/* Xen's _set_status_v1() and what comes before it: may this domain use that entry?  GNTST_*, and the page. */
int16_t grant_check(struct domain *d, unsigned by, uint32_t gref, bool write, uint32_t *frame)
{
    uint64_t entry;
    if (gref >= XENVBD_MACHINE_GREFS)
        return GNTST_bad_gntref;
    entry = atomic_load_explicit(&d->control->grants[gref], memory_order_acquire);
    if (!(entry & GRANT_PERMITTED) || GRANT_DOMID(entry) != by || (write && entry & GRANT_READONLY))
        return GNTST_general_error;
    *frame = GRANT_FRAME(entry);
    return *frame < XENVBD_MACHINE_GREFS ? GNTST_okay : GNTST_bad_page;
}

/* -- Copy: no lock and no system call, once the domain is known ------------------------------------------ */

static struct domain *known_refresh(struct gnttab *h, struct known *known)
{
    domain_put(h->m, known->domain);
    known->domain = domain_get(h->m, known->domid);
    return known->domain;
}

static struct domain *known_add(struct gnttab *h, unsigned domid)
{
    struct known *known = realloc(h->known, (h->known_count + 1) * sizeof(*known));
    if (!known)
        return NULL;
    h->known = known;
    known += h->known_count++;
    *known = (struct known){.domid = domid};
    return known_refresh(h, known);
}

static struct domain *known_find(struct gnttab *h, unsigned domid)
{
    uint32_t serial = domain_serial(h->m, domid);
    h->last = NULL;
    for (struct known *k = h->known; k < h->known + h->known_count; k++)
        if (k->domid == domid)
            return h->last = k->domain && k->domain->serial == serial ? k->domain : known_refresh(h, k);
    return h->last = serial ? known_add(h, domid) : NULL;
}

static inline struct domain *foreign_domain(struct gnttab *h, unsigned domid)
{
    if (h->last && h->last->domid == (int)domid && h->last->serial == domain_serial(h->m, domid))
        return h->last;
    return known_find(h, domid);
}

static inline int16_t foreign_page(struct gnttab *h, const union xengnttab_copy_ptr *ptr, unsigned len,
                                   bool write, uint8_t **address)
{
    struct domain *d;
    uint32_t frame;
    int16_t status;
    if (ptr->foreign.offset + len > PAGE)
        return GNTST_bad_copy_arg;
    d = foreign_domain(h, ptr->foreign.domid);
    if (!d)
        return GNTST_bad_domain;
    status = grant_check(d, h->m->domid, ptr->foreign.ref, write, &frame);
    if (status == GNTST_okay)
        *address = d->memory + (size_t)frame * PAGE + ptr->foreign.offset;
    return status;
}

static int16_t copy_segment(struct gnttab *h, const xengnttab_grant_copy_segment_t *s)
{
    uint8_t *source = s->source.virt, *dest = s->dest.virt;
    int16_t status = GNTST_okay;
    int armed;
    if (s->flags & GNTCOPY_source_gref)
        status = foreign_page(h, &s->source, s->len, false, &source);
    if (status == GNTST_okay && s->flags & GNTCOPY_dest_gref)
        status = foreign_page(h, &s->dest, s->len, true, &dest);
    if (status != GNTST_okay)
        return status;
    if (fault(h->m, XENVBD_FAULT_COPY, &armed))
        return armed;
    if (fault(h->m, XENVBD_FAULT_COPY_LIE, &armed))
        return GNTST_okay;
    memcpy(dest, source, s->len);
    return GNTST_okay;
}

static int gnttab_copy(void *handle, xengnttab_grant_copy_segment_t *segments, uint32_t count)
{
    struct gnttab *h = handle;
    int rc;
    if (fault(h->m, XENVBD_FAULT_COPY_CALL, &rc))
        return rc;
    for (xengnttab_grant_copy_segment_t *s = segments; s < segments + count; s++) {
        if (!(s->flags & (GNTCOPY_source_gref | GNTCOPY_dest_gref)))
            return -EINVAL;             /* gntdev refuses a copy between local buffers */
        s->status = copy_segment(h, s);
    }
    return 0;
}

/* -- Map ------------------------------------------------------------------------------------------------- */

static void mapping_forget(struct xenvbd_machine *m, const uint32_t *records, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&m->shared->mappings[records[i]].member, 0);
}

/* A free record; the lock is held. */
static int mapping_find(struct shared *shared)
{
    for (uint32_t i = 0; i < MAPPINGS; i++) {
        uint32_t index = (shared->mapping_hint + i) % MAPPINGS;
        if (atomic_load(&shared->mappings[index].member))
            continue;
        shared->mapping_hint = index + 1;
        if (index >= shared->mappings_used)
            shared->mappings_used = index + 1;
        return index;
    }
    return -ENOSPC;
}

/* Record one page as mapped; the lock is held.  gntdev says EINVAL whatever the grant's status. */
static int mapping_record(struct gnttab *h, struct domain *d, uint32_t gref, bool write, uint32_t *record)
{
    struct mapping *mapping;
    uint32_t frame;
    int index;
    if (grant_check(d, h->m->domid, gref, write, &frame) != GNTST_okay)
        return -EINVAL;
    index = mapping_find(h->m->shared);
    if (index < 0)
        return index;
    mapping = &h->m->shared->mappings[index];
    mapping->domid = d->domid;
    mapping->domain_serial = d->serial;
    mapping->gref = gref;
    mapping->frame = frame;
    atomic_store(&mapping->member, h->m->member);
    *record = index;
    return 0;
}

static int mapping_record_all(struct gnttab *h, struct local_mapping *lm, const uint32_t *refs, bool write)
{
    int rc = 0;
    uint32_t done = 0;
    machine_lock(h->m);
    while (!rc && done < lm->count) {
        rc = mapping_record(h, lm->domain, refs[done], write, &lm->records[done]);
        done += !rc;
    }
    if (rc)
        mapping_forget(h->m, lm->records, done);
    machine_unlock(h->m);
    return rc;
}

/* Map the recorded pages side by side. */
static int mapping_place(struct gnttab *h, struct local_mapping *lm, int prot)
{
    size_t size = (size_t)lm->count * PAGE;
    uint8_t *base = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    for (uint32_t i = 0; i < lm->count; i++) {
        off_t offset = MEMORY_OFFSET + (off_t)h->m->shared->mappings[lm->records[i]].frame * PAGE;
        uint8_t *page = base + (size_t)i * PAGE;
        if (mmap(page, PAGE, prot, MAP_SHARED | MAP_FIXED, lm->domain->fd, offset) == MAP_FAILED) {
            munmap(base, size);
            return -ENOMEM;
        }
    }
    madvise(base, size, MADV_DONTDUMP);
    lm->address = base;
    return 0;
}

static void mapping_free(struct gnttab *h, struct local_mapping *lm)
{
    domain_put(h->m, lm->domain);
    free(lm->records);
    free(lm);
}

static int mapping_make(struct gnttab *h, struct local_mapping *lm, const uint32_t *refs, int prot)
{
    int rc;
    if (!lm->records || !lm->domain)
        return lm->records ? -EINVAL : -ENOMEM;
    rc = mapping_record_all(h, lm, refs, prot & PROT_WRITE);
    if (rc)
        return rc;
    rc = mapping_place(h, lm, prot);
    if (rc)
        mapping_forget(h->m, lm->records, lm->count);
    return rc;
}

static int gnttab_map(void *handle, uint32_t domid, const uint32_t *refs, uint32_t count, int prot,
                      void **address)
{
    struct gnttab *h = handle;
    struct local_mapping *lm;
    int rc;
    if (fault(h->m, XENVBD_FAULT_MAP, &rc))
        return rc;
    if (count == 0 || count > MAPPINGS)
        return -EINVAL;
    if (h->limit && count > h->limit - h->mapped)
        return -ENOMEM;
    lm = calloc(1, sizeof(*lm));
    if (!lm)
        return -ENOMEM;
    lm->count = count;
    lm->records = calloc(count, sizeof(*lm->records));
    lm->domain = domain_get(h->m, domid);
    rc = mapping_make(h, lm, refs, prot);
    if (rc) {
        mapping_free(h, lm);
        return rc;
    }
    lm->next = h->mappings;
    h->mappings = lm;
    h->mapped += count;
    *address = lm->address;
    return 0;
}

static void mapping_undo(struct gnttab *h, struct local_mapping **link)
{
    struct local_mapping *lm = *link;
    *link = lm->next;
    h->mapped -= lm->count;
    munmap(lm->address, (size_t)lm->count * PAGE);
    if (h->m->pid == getpid())
        mapping_forget(h->m, lm->records, lm->count);
    mapping_free(h, lm);
}

static int gnttab_unmap(void *handle, void *address, uint32_t count)
{
    struct gnttab *h = handle;
    struct local_mapping **link = &h->mappings;
    int rc;
    if (fault(h->m, XENVBD_FAULT_UNMAP, &rc))
        return rc;
    while (*link && (*link)->address != address)
        link = &(*link)->next;
    if (!*link || (*link)->count != count)
        return -EINVAL;
    mapping_undo(h, link);
    return 0;
}

/* -- Open, close ----------------------------------------------------------------------------------------- */

static int gnttab_open(void *machine, void **handle)
{
    struct xenvbd_machine *m = machine;
    struct gnttab *h;
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

static int gnttab_close(void *handle)
{
    struct gnttab *h = handle;
    while (h->mappings)
        mapping_undo(h, &h->mappings);
    for (uint32_t i = 0; i < h->known_count; i++)
        domain_put(h->m, h->known[i].domain);
    free(h->known);
    free(h);
    return 0;
}

static int gnttab_set_max_grants(void *handle, uint32_t count)
{
    struct gnttab *h = handle;
    if (count < h->mapped)
        return -EINVAL;
    h->limit = count;
    return 0;
}

const struct xenvbd_gnttab_ops machine_gnttab_ops = {
    .open = gnttab_open,
    .close = gnttab_close,
    .set_max_grants = gnttab_set_max_grants,
    .map = gnttab_map,
    .unmap = gnttab_unmap,
    .copy = gnttab_copy,
};

int xenvbd_machine_mappings(struct xenvbd_machine *m, int domid, struct xenvbd_mapping_info *info,
                            uint32_t limit)
{
    uint32_t found = 0;
    machine_lock(m);
    machine_reap(m);
    for (uint32_t i = 0; i < m->shared->mappings_used; i++) {
        struct mapping *mapping = &m->shared->mappings[i];
        uint32_t member = atomic_load(&mapping->member);
        if (!member || mapping->domid != domid)
            continue;
        if (found < limit)
            info[found] = (struct xenvbd_mapping_info){m->shared->members[member].pid, mapping->gref};
        found++;
    }
    machine_unlock(m);
    return found;
}
