/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What machine.h promises and the Python layer never asks for: "contract DIR", where DIR holds a machine with
 * domains 0 and 1.  Says which promise was broken.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "xenvbd/machine.h"

static int broken;

#define PROMISE(call, result) promise(call, result, #call, __LINE__)

static void promise(int found, int expected, const char *call, int line)
{
    if (found == expected)
        return;
    fprintf(stderr, "line %d: %s is %d, not %d\n", line, call, found, expected);
    broken = 1;
}

static struct xenvbd_hypervisor join(const char *dir, int domid)
{
    struct xenvbd_machine *machine = NULL;
    struct xenvbd_hypervisor hv;
    PROMISE(xenvbd_machine_open(dir, domid, &machine), 0);
    xenvbd_machine_hypervisor(machine, &hv);
    return hv;
}

static void looking(struct xenvbd_machine *m)
{
    struct xenvbd_port_info port;
    struct xenvbd_grant_info grant = {.remote_domid = 1 << 16};
    void *address;
    PROMISE(xenvbd_machine_domain_serial(m, 1) > 0, 1);
    PROMISE(xenvbd_machine_domain_serial(m, 2), 0);
    PROMISE(xenvbd_machine_port(m, 1, 0, &port), -EINVAL);
    PROMISE(xenvbd_machine_port(m, 1, XENVBD_MACHINE_PORTS, &port), -EINVAL);
    PROMISE(xenvbd_machine_port(m, 2, 1, &port), -ESRCH);
    PROMISE(xenvbd_machine_set_grant(m, 1, 8, &grant), -EINVAL);
    PROMISE(xenvbd_machine_grant_info(m, 1, XENVBD_MACHINE_GREFS, &grant), -EINVAL);
    PROMISE(xenvbd_machine_grant_info(m, 2, 8, &grant), -ESRCH);
    PROMISE(xenvbd_machine_memory(m, 1, 0, 0, &address), -EINVAL);
    PROMISE(xenvbd_machine_memory(m, 1, XENVBD_MACHINE_GREFS - 1, 2, &address), -EINVAL);
    PROMISE(xenvbd_machine_memory(m, 2, 0, 1, &address), -ESRCH);
    PROMISE(xenvbd_machine_inject(m, XENVBD_FAULT_OPS, 0, 0, 1, -1), -EINVAL);
}

static void sharing(const struct xenvbd_hypervisor *front, const struct xenvbd_hypervisor *back)
{
    xengnttab_grant_copy_segment_t local = {.len = 1};
    void *sharer, *table, *pages, *mapped;
    uint32_t refs[2];
    PROMISE(front->gntshr->open(front->machine, &sharer), 0);
    PROMISE(back->gnttab->open(back->machine, &table), 0);
    PROMISE(front->gntshr->share(sharer, 0, 2, refs, 1, &pages), 0);
    PROMISE(back->gnttab->map(table, 1, refs, 2, PROT_READ, &mapped), 0);
    PROMISE(front->gntshr->unshare(sharer, pages, 1), -EINVAL);
    PROMISE(front->gntshr->unshare(sharer, (char *)pages + 4096, 1), -EINVAL);
    PROMISE(back->gnttab->unmap(table, mapped, 1), -EINVAL);
    PROMISE(back->gnttab->unmap(table, (char *)mapped + 4096, 1), -EINVAL);
    PROMISE(back->gnttab->set_max_grants(table, 1), -EINVAL);
    PROMISE(back->gnttab->copy(table, &local, 1), -EINVAL);
    PROMISE(xenvbd_machine_mappings(back->machine, 1, NULL, 0), 2);
    PROMISE(back->gnttab->close(table), 0);                 /* with what is mapped */
    PROMISE(xenvbd_machine_mappings(back->machine, 1, NULL, 0), 0);
    PROMISE(front->gntshr->close(sharer), 0);               /* with what is shared */
}

static void copying_between_guests(const struct xenvbd_hypervisor *front, const struct xenvbd_hypervisor *back)
{
    xengnttab_grant_copy_segment_t segment = {.len = 4, .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref};
    void *sharer, *table, *pages;
    uint32_t refs[2];
    PROMISE(front->gntshr->open(front->machine, &sharer), 0);
    PROMISE(back->gnttab->open(back->machine, &table), 0);
    PROMISE(front->gntshr->share(sharer, 0, 2, refs, 1, &pages), 0);
    memcpy(pages, "here", 4);
    segment.source.foreign.ref = refs[0];
    segment.dest.foreign.ref = refs[1];
    segment.source.foreign.domid = segment.dest.foreign.domid = 1;
    PROMISE(back->gnttab->copy(table, &segment, 1), 0);
    PROMISE(segment.status, GNTST_okay);
    PROMISE(memcmp((char *)pages + 4096, "here", 4), 0);
    PROMISE(back->gnttab->close(table), 0);
    PROMISE(front->gntshr->close(sharer), 0);
}

static void leaving_with_everything_open(const char *dir, struct xenvbd_machine *m)
{
    struct xenvbd_hypervisor front = join(dir, 1);
    struct xenvbd_port_info info;
    void *channels;
    int port;
    PROMISE(front.evtchn->open(front.machine, &channels), 0);
    port = front.evtchn->bind_unbound(channels, 0);
    PROMISE(front.evtchn->bind_unbound(channels, 1 << 16), -EINVAL);
    xenvbd_machine_close(front.machine);
    PROMISE(xenvbd_machine_port(m, 1, port, &info), 0);
    PROMISE(info.state, XENVBD_PORT_FREE);
}

static void outliving_the_domain(const struct xenvbd_hypervisor *front)
{
    void *handle, *sharer, *pages;
    uint32_t ref;
    PROMISE(front->gntshr->open(front->machine, &sharer), 0);
    PROMISE(xenvbd_machine_remove_domain(front->machine, 1), 0);
    PROMISE(front->gntshr->share(sharer, 0, 1, &ref, 1, &pages), -ENODEV);
    PROMISE(front->evtchn->open(front->machine, &handle), -ENODEV);
    PROMISE(front->gnttab->open(front->machine, &handle), -ENODEV);
    PROMISE(front->gntshr->open(front->machine, &handle), -ENODEV);
    PROMISE(front->gntshr->close(sharer), 0);
}

int main(int argc, char **argv)
{
    struct xenvbd_hypervisor back, front;
    struct xenvbd_machine *none;
    if (argc != 2)
        return 2;
    back = join(argv[1], 0);
    front = join(argv[1], 1);
    PROMISE(xenvbd_machine_open("/nonexistent", 0, &none), -ENOENT);
    looking(back.machine);
    sharing(&front, &back);
    copying_between_guests(&front, &back);
    leaving_with_everything_open(argv[1], back.machine);
    outliving_the_domain(&front);
    xenvbd_machine_close(front.machine);
    xenvbd_machine_close(back.machine);
    xenvbd_machine_close(NULL);
    return broken;
}
