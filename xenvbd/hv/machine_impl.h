/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Inside the simulated machine: what lies in its shared files, and what machine*.c lend each other.
 *
 * Rule for everything below: a process may be killed between any two stores.  What is published under the
 * lock is therefore published by one store, after what it refers to, and taken back in the opposite order, so
 * that whoever comes next finds either the old state or the new one, and the dead process's share is undone
 * by its member record.
 */
#ifndef XENVBD_MACHINE_IMPL_H
#define XENVBD_MACHINE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "xenvbd/machine.h"

#define PAGE 4096u
#define DOMAINS 0x7ff0              /* DOMID_FIRST_RESERVED */
#define MEMBERS 1024
#define HANDLES 4096
#define MAPPINGS 131072
#define FAULTS 32

/* -- The file "machine" ---------------------------------------------------------------------------------- */

/* A process that joined.  It holds an OFD lock on the byte of the file whose offset is its index; the lock is
 * how others see that it lives.  Index 0 is not used, so that 0 can say "nobody". */
struct member {
    _Atomic uint32_t taken;
    pid_t pid;
    int32_t domid;
    uint32_t domain_serial;
};

/* An open event-channel handle, and its bell: a FIFO named evtchn.<index>.<serial>. */
struct bell {
    _Atomic uint64_t rung;          /* serial << 32 | times emptied << 1 | there is a byte in it */
    _Atomic uint32_t member;        /* 0: free */
} __attribute__((aligned(64)));

struct mapping {
    _Atomic uint16_t member;        /* 0: free; written last */
    uint16_t domid;
    uint32_t domain_serial;
    uint32_t gref, frame;
};

struct fault {
    _Atomic uint32_t active;
    uint32_t op, after, count;
    int32_t status, domid;
    _Atomic uint64_t seen;
};

struct shared {
    uint64_t magic;
    uint32_t version;
    uint32_t serials;               /* the last one given out */
    pthread_mutex_t mutex;          /* robust; for everything but notify, pending, unmask and copy */
    _Atomic uint32_t armed;         /* bit n: a fault of op n may be armed */
    _Atomic uint64_t fault_hits;
    struct fault faults[FAULTS];
    uint32_t mappings_used;         /* no mapping at or above this index was ever in use */
    uint32_t mapping_hint;
    _Atomic uint32_t domain_serial[DOMAINS];    /* 0: no such domain */
    struct member members[MEMBERS];
    struct bell bells[HANDLES];
    struct mapping mappings[MAPPINGS];
};

/* -- The file "domain.<domid>.<serial>" ------------------------------------------------------------------ */

struct port {
    _Atomic uint64_t link;          /* LINK(): state and other end in one word */
    _Atomic uint64_t owner;         /* bell index | its serial << 32 */
    _Atomic uint32_t pending, masked;
} __attribute__((aligned(64)));

static inline uint64_t bell_owner(const struct bell *bell, uint32_t index)
{
    return index | (atomic_load(&bell->rung) >> 32) << 32;
}

#define LINK(state, domid, port) ((uint64_t)(state) << 32 | (uint64_t)(domid) << 16 | (port))
#define LINK_STATE(link) ((unsigned)((link) >> 32))
#define LINK_DOMID(link) ((unsigned)((link) >> 16) & 0xffff)
#define LINK_PORT(link) ((unsigned)(link) & 0xffff)

#define GRANT_ALLOCATED (UINT64_C(1) << 63)
#define GRANT_PERMITTED (UINT64_C(1) << 62)
#define GRANT_READONLY (UINT64_C(1) << 61)
#define GRANT(flags, domid, frame) ((flags) | (uint64_t)(domid) << 32 | (frame))
#define GRANT_DOMID(entry) ((unsigned)((entry) >> 32) & 0xffff)
#define GRANT_FRAME(entry) ((uint32_t)(entry))

struct control {
    uint32_t ports_used;            /* no port at or above this was ever in use */
    uint32_t grefs_used;
    uint32_t gref_hint;
    struct port ports[XENVBD_MACHINE_PORTS];
    _Atomic uint64_t grants[XENVBD_MACHINE_GREFS];
};

#define MEMORY_OFFSET ((sizeof(struct control) + 0x1fffff) & ~(size_t)0x1fffff)
#define MEMORY_SIZE ((size_t)XENVBD_MACHINE_GREFS * PAGE)

/* -- In this process ------------------------------------------------------------------------------------- */

/* A domain's file, mapped. */
struct domain {
    struct domain *next;
    uint32_t users;                 /* under the machine object's mutex */
    int domid;
    uint32_t serial;
    int fd;
    struct control *control;
    uint8_t *memory;
};

struct xenvbd_machine {
    int dir, file;
    pid_t pid;
    struct shared *shared;
    int domid;
    uint32_t member;                /* 0: looks on */
    struct domain *own;             /* NULL: looks on */
    pthread_mutex_t mutex;          /* for the list of domains */
    struct domain *domains;
};

void machine_lock(struct xenvbd_machine *m);
void machine_unlock(struct xenvbd_machine *m);
bool machine_alive(const struct xenvbd_machine *m);     /* our own domain still exists */
void machine_reap(struct xenvbd_machine *m);            /* clean up after dead processes; the lock is held */
int machine_file_name(char *out, const char *kind, unsigned index, unsigned serial);

/* Make the file of a new domain and announce it; the lock is held, or nobody else is there yet. */
int domain_create(int dir, struct shared *shared, unsigned domid);
struct domain *domain_get(struct xenvbd_machine *m, unsigned domid);    /* NULL: no such domain */
void domain_put(struct xenvbd_machine *m, struct domain *d);
void domain_unmap(struct domain *d);

static inline uint32_t domain_serial(const struct xenvbd_machine *m, unsigned domid)
{
    return domid < DOMAINS ? atomic_load_explicit(&m->shared->domain_serial[domid], memory_order_acquire) : 0;
}

/* The lock is held for these two. */
void port_close(struct xenvbd_machine *m, struct domain *d, uint32_t port);
void bell_free(struct xenvbd_machine *m, struct domain *d, uint32_t index);     /* with its ports */

int16_t grant_check(struct domain *d, unsigned by, uint32_t gref, bool write, uint32_t *frame);

bool fault_fires(struct xenvbd_machine *m, enum xenvbd_fault_op op, int *status);

/* Has a test armed a fault for this use of op?  Then *status is what it shall give. */
static inline bool fault(struct xenvbd_machine *m, enum xenvbd_fault_op op, int *status)
{
    return __builtin_expect(atomic_load_explicit(&m->shared->armed, memory_order_relaxed) >> op & 1, 0)
           && fault_fires(m, op, status);
}

extern const struct xenvbd_evtchn_ops machine_evtchn_ops;
extern const struct xenvbd_gnttab_ops machine_gnttab_ops;
extern const struct xenvbd_gntshr_ops machine_gntshr_ops;

#endif
