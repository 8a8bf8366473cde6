/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine used from plain C, as a preload shim uses it.
 *
 *   exercise DIR hammer SEED   domain 1 does everything at random with domain 0 until it is killed; domain 0
 *                              has unbound ports 1..8 for it and grants it grefs 8..39
 *   exercise DIR script N      domain 1 does everything once with such a domain 0; built with crashpoint.h it
 *                              dies before its store number N
 *   exercise DIR pingpong N    domains 0 and 1, two processes that sleep: prints ns per round trip
 *   exercise DIR fan N         four processes of domain 1 do that with one handle of domain 0; a lost event
 *                              hangs it
 *   exercise DIR copy N        domain 0 copies 4 KiB from domain 1, 32 segments a call: prints ns per segment
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "xenvbd/machine.h"

#define BATCH 32

static struct xenvbd_hypervisor join(const char *dir, int domid)
{
    struct xenvbd_machine *machine;
    struct xenvbd_hypervisor hv;
    int rc = xenvbd_machine_open(dir, domid, &machine);
    if (rc) {
        fprintf(stderr, "join as %d: %s\n", domid, strerror(-rc));
        exit(1);
    }
    xenvbd_machine_hypervisor(machine, &hv);
    return hv;
}

static int must(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-rc));
        exit(1);
    }
    return rc;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* -- Two processes take turns ---------------------------------------------------------------------------- */

static int await_event(const struct xenvbd_hypervisor *hv, void *channels)
{
    struct pollfd fd = {.fd = hv->evtchn->fd(channels), .events = POLLIN};
    int port;
    while ((port = hv->evtchn->pending(channels)) == -EAGAIN)
        poll(&fd, 1, -1);
    hv->evtchn->unmask(channels, must(port, "pending"));
    return port;
}

static void pong(const char *dir, int port, int turns)
{
    struct xenvbd_hypervisor hv = join(dir, 1);
    void *channels;
    must(hv.evtchn->open(hv.machine, &channels), "open");
    port = must(hv.evtchn->bind_interdomain(channels, 0, port), "bind");
    await_event(&hv, channels);             /* of the binding itself */
    hv.evtchn->notify(channels, port);
    for (int i = 0; i < turns; i++) {
        await_event(&hv, channels);
        hv.evtchn->notify(channels, port);
    }
    hv.evtchn->close(channels);
    xenvbd_machine_close(hv.machine);
    exit(0);
}

static int pingpong(const char *dir, int turns)
{
    struct xenvbd_hypervisor hv = join(dir, 0);
    void *channels;
    int port, status;
    double start;
    must(hv.evtchn->open(hv.machine, &channels), "open");
    port = must(hv.evtchn->bind_unbound(channels, 1), "bind");
    if (!fork())
        pong(dir, port, turns);
    await_event(&hv, channels);
    start = now_ns();
    for (int i = 0; i < turns; i++) {
        hv.evtchn->notify(channels, port);
        await_event(&hv, channels);
    }
    printf("%.0f\n", (now_ns() - start) / turns);
    wait(&status);
    hv.evtchn->close(channels);
    xenvbd_machine_close(hv.machine);
    return status;
}

/* -- Several take turns with one ------------------------------------------------------------------------- */

#define FAN 4

static int fan(const char *dir, int turns)
{
    struct xenvbd_hypervisor hv = join(dir, 0);
    void *channels;
    int status, failed = 0;
    must(hv.evtchn->open(hv.machine, &channels), "open");
    for (int i = 0; i < FAN; i++) {
        int port = must(hv.evtchn->bind_unbound(channels, 1), "bind");
        if (!fork())
            pong(dir, port, turns);
    }
    for (int i = 0; i < FAN * (turns + 1); i++)
        hv.evtchn->notify(channels, await_event(&hv, channels));
    for (int i = 0; i < FAN; i++)
        failed |= wait(&status) < 0 || status;
    hv.evtchn->close(channels);
    xenvbd_machine_close(hv.machine);
    return failed;
}

/* -- Copy ------------------------------------------------------------------------------------------------ */

static int copy(const char *dir, int calls)
{
    struct xenvbd_hypervisor back = join(dir, 0), front = join(dir, 1);
    xengnttab_grant_copy_segment_t segments[BATCH];
    void *table, *sharer, *pages;
    uint32_t refs[BATCH];
    uint8_t *local = aligned_alloc(4096, BATCH * 4096);
    double start;
    must(back.gnttab->open(back.machine, &table), "open");
    must(front.gntshr->open(front.machine, &sharer), "open");
    must(front.gntshr->share(sharer, 0, BATCH, refs, 1, &pages), "share");
    memset(pages, 0x5a, BATCH * 4096);
    memset(local, 0, BATCH * 4096);
    for (int i = 0; i < BATCH; i++) {
        segments[i] = (xengnttab_grant_copy_segment_t){.len = 4096, .flags = GNTCOPY_source_gref};
        segments[i].source.foreign.ref = refs[i];
        segments[i].source.foreign.domid = 1;
        segments[i].dest.virt = local + i * 4096;
    }
    start = now_ns();
    for (int i = 0; i < calls; i++)
        must(back.gnttab->copy(table, segments, BATCH), "copy");
    printf("%.1f\n", (now_ns() - start) / calls / BATCH);
    back.gnttab->close(table);
    front.gntshr->close(sharer);
    xenvbd_machine_close(back.machine);
    xenvbd_machine_close(front.machine);
    calls = local[BATCH * 4096 - 1] == 0x5a ? 0 : 1;
    free(local);
    return calls;
}

/* -- Everything at random -------------------------------------------------------------------------------- */

struct life {
    struct xenvbd_hypervisor hv;
    void *channels, *table, *sharer;
    int port;                               /* the last one bound */
    void *mapped, *shared;
    uint32_t map_count, share_count;
};

static void live(struct life *l)
{
    l->hv.evtchn->open(l->hv.machine, &l->channels);
    l->hv.gnttab->open(l->hv.machine, &l->table);
    l->hv.gntshr->open(l->hv.machine, &l->sharer);
}

static void end(struct life *l)
{
    l->hv.evtchn->close(l->channels);
    l->hv.gnttab->close(l->table);
    l->hv.gntshr->close(l->sharer);
    l->mapped = l->shared = NULL;
}

static void remap(struct life *l)
{
    uint32_t refs[4] = {8, 9, 10, 8 + rand() % 32};
    if (l->mapped)
        must(l->hv.gnttab->unmap(l->table, l->mapped, l->map_count), "unmap");
    l->map_count = 1 + rand() % 4;
    must(l->hv.gnttab->map(l->table, 0, refs, l->map_count, PROT_READ | PROT_WRITE, &l->mapped), "map");
    memset(l->mapped, 1, l->map_count * 4096);
}

static void reshare(struct life *l)
{
    uint32_t refs[4];
    if (l->shared)
        must(l->hv.gntshr->unshare(l->sharer, l->shared, l->share_count), "unshare");
    l->share_count = 1 + rand() % 4;
    must(l->hv.gntshr->share(l->sharer, 0, l->share_count, refs, 1, &l->shared), "share");
    memset(l->shared, 1, l->share_count * 4096);
}

static void act(struct life *l)
{
    int port;
    switch (rand() % 8) {
    case 0: case 1:
        port = l->hv.evtchn->bind_interdomain(l->channels, 0, 1 + rand() % 8);
        l->port = port > 0 ? port : l->port;
        break;
    case 2: l->port = must(l->hv.evtchn->bind_unbound(l->channels, 0), "bind"); break;
    case 3: l->hv.evtchn->unbind(l->channels, l->port); break;
    case 4: l->hv.evtchn->notify(l->channels, l->port); break;
    case 5: remap(l); break;
    case 6: reshare(l); break;
    case 7:
        if (rand() % 8)
            break;
        end(l);
        live(l);
    }
    port = l->hv.evtchn->pending(l->channels);
    if (port > 0)
        l->hv.evtchn->unmask(l->channels, port);
}

static _Noreturn void hammer(const char *dir, unsigned seed)
{
    struct life l = {.hv = join(dir, 1)};
    srand(seed);
    live(&l);
    puts("hammering");
    fflush(stdout);
    for (;;)
        act(&l);
}

/* -- Everything once ------------------------------------------------------------------------------------- */

unsigned long crash_at, crash_count;

static void script_domain(struct life *l)
{
    struct xenvbd_hypervisor hv = l->hv;
    must(xenvbd_machine_add_domain(l->hv.machine, 5), "add domain");
    l->port = must(hv.evtchn->bind_unbound(l->channels, 5), "bind");
    must(xenvbd_machine_remove_domain(l->hv.machine, 5), "remove domain");
}

static int script(const char *dir, unsigned long at)
{
    struct life l = {0};
    crash_at = at;
    l.hv = join(dir, 1);
    live(&l);
    l.port = must(l.hv.evtchn->bind_interdomain(l.channels, 0, 1), "bind");
    must(l.hv.evtchn->notify(l.channels, l.port), "notify");
    must(l.hv.evtchn->pending(l.channels), "pending");
    must(l.hv.evtchn->unmask(l.channels, l.port), "unmask");
    must(l.hv.evtchn->unbind(l.channels, l.port), "unbind");
    must(l.hv.evtchn->bind_interdomain(l.channels, 0, 2), "bind");
    remap(&l);
    remap(&l);
    reshare(&l);
    reshare(&l);
    script_domain(&l);
    end(&l);
    xenvbd_machine_close(l.hv.machine);
    puts("done");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    if (!strcmp(argv[2], "hammer"))
        hammer(argv[1], atoi(argv[3]));
    if (!strcmp(argv[2], "script"))
        return script(argv[1], atol(argv[3]));
    if (!strcmp(argv[2], "fan"))
        return fan(argv[1], atoi(argv[3]));
    if (!strcmp(argv[2], "pingpong"))
        return pingpong(argv[1], atoi(argv[3]));
    return copy(argv[1], atoi(argv[3]));
}
