/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: faults that tests arm, for every process at once.
 */
#include <errno.h>

#include "machine_impl.h"

/* A use of op by this process counts for every fault of that op; the first one that is due fires. */
bool fault_fires(struct xenvbd_machine *m, enum xenvbd_fault_op op, int *status)
{
    bool fired = false;
    for (struct fault *f = m->shared->faults; f < m->shared->faults + FAULTS; f++) {
        uint64_t seen;
        if (!atomic_load(&f->active) || f->op != op || (f->domid >= 0 && f->domid != m->domid))
            continue;
        seen = atomic_fetch_add(&f->seen, 1);
        if (fired || seen < f->after || (f->count && seen - f->after >= f->count))
            continue;
        atomic_fetch_add(&m->shared->fault_hits, 1);
        *status = f->status;
        fired = true;
    }
    return fired;
}

int xenvbd_machine_inject(struct xenvbd_machine *m, enum xenvbd_fault_op op, uint32_t after, int status,
                          uint32_t count, int domid)
{
    int rc = -ENOSPC;
    if (op >= XENVBD_FAULT_OPS)
        return -EINVAL;
    machine_lock(m);
    for (struct fault *f = m->shared->faults; rc && f < m->shared->faults + FAULTS; f++) {
        if (atomic_load(&f->active))
            continue;
        f->op = op;
        f->after = after;
        f->count = count;
        f->status = status;
        f->domid = domid;
        atomic_store(&f->seen, 0);
        atomic_store(&f->active, 1);
        atomic_fetch_or(&m->shared->armed, UINT32_C(1) << op);
        rc = 0;
    }
    machine_unlock(m);
    return rc;
}

void xenvbd_machine_clear_faults(struct xenvbd_machine *m)
{
    machine_lock(m);
    atomic_store(&m->shared->armed, 0);
    for (struct fault *f = m->shared->faults; f < m->shared->faults + FAULTS; f++)
        atomic_store(&f->active, 0);
    machine_unlock(m);
}

uint64_t xenvbd_machine_fault_hits(struct xenvbd_machine *m)
{
    return atomic_load(&m->shared->fault_hits);
}
