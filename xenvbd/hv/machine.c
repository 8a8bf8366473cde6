/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: making it, joining it, noticing who died.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine_impl.h"

#define MAGIC UINT64_C(0x656e696863616d78)      /* "xmachine" */
#define VERSION 1

_Static_assert(sizeof(struct port) == 64 && sizeof(struct bell) == 64, "one cache line each");
_Static_assert(sizeof(struct mapping) == 16, "no padding");

int machine_file_name(char *out, const char *kind, unsigned index, unsigned serial)
{
    return sprintf(out, "%s.%u.%u", kind, index, serial);
}

/* -- The lock -------------------------------------------------------------------------------------------- */

void machine_lock(struct xenvbd_machine *m)
{
    /* The rule in machine_impl.h makes whatever the dead owner left consistent. */
    if (pthread_mutex_lock(&m->shared->mutex) == EOWNERDEAD)
        pthread_mutex_consistent(&m->shared->mutex);
}

void machine_unlock(struct xenvbd_machine *m)
{
    pthread_mutex_unlock(&m->shared->mutex);
}

static int robust_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int rc;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    rc = pthread_mutex_init(mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return -rc;
}

/* -- Members --------------------------------------------------------------------------------------------- */

static int member_lock(struct xenvbd_machine *m, uint32_t index, int command, int *type)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};
    if (fcntl(m->file, command, &lock))
        return -errno;
    *type = lock.l_type;
    return 0;
}

static bool member_is_dead(struct xenvbd_machine *m, uint32_t index)
{
    int type = F_WRLCK;
    return index != m->member && !member_lock(m, index, F_OFD_GETLK, &type) && type == F_UNLCK;
}

static void member_free(struct xenvbd_machine *m, uint32_t index)
{
    struct member *member = &m->shared->members[index];
    struct domain *d = domain_get(m, member->domid);
    if (d && d->serial != member->domain_serial) {
        domain_put(m, d);
        d = NULL;
    }
    for (uint32_t i = 0; i < HANDLES; i++)
        if (atomic_load(&m->shared->bells[i].member) == index)
            bell_free(m, d, i);
    for (uint32_t i = 0; i < m->shared->mappings_used; i++)
        if (atomic_load(&m->shared->mappings[i].member) == index)
            atomic_store(&m->shared->mappings[i].member, 0);
    domain_put(m, d);
    atomic_store(&member->taken, 0);
}

void machine_reap(struct xenvbd_machine *m)
{
    for (uint32_t i = 1; i < MEMBERS; i++)
        if (atomic_load(&m->shared->members[i].taken) && member_is_dead(m, i))
            member_free(m, i);
}

void xenvbd_machine_reap(struct xenvbd_machine *m)
{
    machine_lock(m);
    machine_reap(m);
    machine_unlock(m);
}

static int member_join(struct xenvbd_machine *m)
{
    int type;
    machine_reap(m);
    for (uint32_t i = 1; i < MEMBERS; i++) {
        struct member *member = &m->shared->members[i];
        if (atomic_load(&member->taken) || member_lock(m, i, F_OFD_SETLK, &type))
            continue;
        member->pid = m->pid;
        member->domid = m->domid;
        member->domain_serial = m->own->serial;
        atomic_store(&member->taken, 1);
        m->member = i;
        return 0;
    }
    return -EUSERS;
}

/* -- Create, open, close --------------------------------------------------------------------------------- */

static int shared_init(int dir, int file)
{
    struct shared *shared;
    int rc;
    if (ftruncate(file, sizeof(*shared)))
        return -errno;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED)
        return -errno;
    shared->magic = MAGIC;
    shared->version = VERSION;
    rc = robust_mutex(&shared->mutex);
    if (!rc)
        rc = domain_create(dir, shared, 0);
    munmap(shared, sizeof(*shared));
    return rc;
}

/* It appears under its name when it is complete. */
static int machine_make(int dir)
{
    char name[64];
    int file, rc;
    if (!faccessat(dir, "machine", F_OK, 0))
        return -EEXIST;
    sprintf(name, "machine.%d", (int)getpid());
    file = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
    if (file < 0)
        return -errno;
    rc = shared_init(dir, file);
    close(file);
    if (!rc && linkat(dir, name, dir, "machine", 0))
        rc = -errno;
    unlinkat(dir, name, 0);
    return rc;
}

int xenvbd_machine_create(const char *path)
{
    int rc, dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    rc = machine_make(dir);
    close(dir);
    return rc;
}

static int machine_map(struct xenvbd_machine *m)
{
    struct stat st;
    m->file = openat(m->dir, "machine", O_RDWR | O_CLOEXEC);
    if (m->file < 0 || fstat(m->file, &st))
        return -errno;
    if (st.st_size != sizeof(*m->shared))
        return -EPROTO;
    m->shared = mmap(NULL, sizeof(*m->shared), PROT_READ | PROT_WRITE, MAP_SHARED, m->file, 0);
    if (m->shared == MAP_FAILED) {
        m->shared = NULL;
        return -errno;
    }
    return m->shared->magic == MAGIC && m->shared->version == VERSION ? 0 : -EPROTO;
}

static int machine_join(struct xenvbd_machine *m)
{
    int rc;
    m->own = domain_get(m, m->domid);
    if (!m->own)
        return -ESRCH;
    machine_lock(m);
    rc = machine_alive(m) ? member_join(m) : -ESRCH;
    machine_unlock(m);
    return rc;
}

int xenvbd_machine_open(const char *path, int domid, struct xenvbd_machine **machine)
{
    struct xenvbd_machine *m = calloc(1, sizeof(*m));
    int rc;
    if (!m)
        return -ENOMEM;
    m->domid = domid;
    m->pid = getpid();
    m->file = -1;
    pthread_mutex_init(&m->mutex, NULL);
    m->dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    rc = m->dir < 0 ? -errno : machine_map(m);
    if (!rc && domid != XENVBD_MACHINE_NO_DOMAIN)
        rc = machine_join(m);
    if (rc)
        xenvbd_machine_close(m);
    else
        *machine = m;
    return rc;
}

static void machine_leave(struct xenvbd_machine *m)
{
    machine_lock(m);
    member_free(m, m->member);
    machine_unlock(m);
}

void xenvbd_machine_close(struct xenvbd_machine *m)
{
    struct domain *next;
    if (!m)
        return;
    if (m->member && m->pid == getpid())
        machine_leave(m);
    for (struct domain *d = m->domains; d; d = next) {
        next = d->next;
        domain_unmap(d);
    }
    if (m->shared)
        munmap(m->shared, sizeof(*m->shared));
    if (m->file >= 0)
        close(m->file);
    if (m->dir >= 0)
        close(m->dir);
    pthread_mutex_destroy(&m->mutex);
    free(m);
}

void xenvbd_machine_hypervisor(struct xenvbd_machine *m, struct xenvbd_hypervisor *out)
{
    *out = (struct xenvbd_hypervisor){&machine_evtchn_ops, &machine_gnttab_ops, &machine_gntshr_ops, m};
}
