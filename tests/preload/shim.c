/*
 * LD_PRELOAD for Debian's unmodified xenstored, 4.17 or 4.20, so that it serves on a machine without Xen: answers what
 * it asks of libxenctrl, libxenevtchn, libxengnttab and /proc/xen.  The machine is the directory $XENSTORED_RUNDIR:
 *
 *   ring.N    domain N's store ring page, mapped where a grant of N's would be
 *   events    a FIFO; a uint32_t written there is an event channel port that becomes pending
 *   notify.N  a FIFO; gets a byte whenever xenstored notifies domain N
 *   dead.N    exists if domain N does not
 *
 * Any domain number below DOMID_FIRST_RESERVED exists, unless it is dead.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

enum { VIRQ_PORT = 1, DOM0_PORT = 2, FIRST_PORT = 16, PORTS = 1024, PAGE = 4096 };

static int notify_fds[PORTS];   /* by local port; 0: not bound */
static int events_fd = -1;
static char handle;             /* what stands for every library's handle */

static const char *in_rundir(const char *name, unsigned int domid)
{
    static char path[4096];
    const char *dir = getenv("XENSTORED_RUNDIR");

    if (dir == NULL)
        abort();
    if (domid == 0)
        snprintf(path, sizeof(path), "%s/%s", dir, name);
    else
        snprintf(path, sizeof(path), "%s/%s.%u", dir, name, domid);
    return path;
}

/* A test that is killed takes its xenstored along. */
__attribute__((constructor)) static void die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* /proc/xen */

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    if (flags & O_CREAT) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    if (strcmp(path, "/proc/xen/xsd_kva") == 0)
        path = in_rundir("xsd_kva", 0);
    else if (strcmp(path, "/proc/xen/xsd_port") == 0)
        path = in_rundir("xsd_port", 0);
    return openat(AT_FDCWD, path, flags, mode);
}

/* libxenctrl */

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild_logger, unsigned open_flags)
{
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
    return 0;
}

static int exists(uint32_t domid)
{
    return domid < DOMID_FIRST_RESERVED && (domid == 0 || access(in_rundir("dead", domid), F_OK) != 0);
}

/* What xenstored asks since 4.18. */
int xc_domain_getinfo_single(xc_interface *xch, uint32_t domid, xc_domaininfo_t *info)
{
    if (!exists(domid)) {
        errno = ESRCH;
        return -1;
    }
    memset(info, 0, sizeof(*info));
    info->domain = domid;
    return 0;
}

#if XEN_DOMCTL_INTERFACE_VERSION < 0x16
int xc_domain_getinfo(xc_interface *xch, uint32_t first_domid, unsigned int max_doms, xc_dominfo_t *info)
{
    if (!exists(first_domid))
        return 0;
    memset(info, 0, sizeof(*info));
    info->domid = first_domid;
    return 1;
}
#endif

/* libxenevtchn */

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    /* Opened for writing, too, so that it never reads as closed. */
    events_fd = openat(AT_FDCWD, in_rundir("events", 0), O_RDWR | O_NONBLOCK);
    return events_fd < 0 ? NULL : (xenevtchn_handle *)&handle;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned open_flags)
{
    events_fd = fd;
    return (xenevtchn_handle *)&handle;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    return events_fd;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;

    return read(events_fd, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    if (port < PORTS && notify_fds[port] > 0 && write(notify_fds[port], "", 1) < 0)
        return errno == EAGAIN ? 0 : -1;
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    return VIRQ_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid,
                                                     evtchn_port_t remote_port)
{
    unsigned int port = FIRST_PORT + domid;

    if (domid == 0)
        return DOM0_PORT;
    if (port >= PORTS) {
        errno = ENOSPC;
        return -1;
    }
    notify_fds[port] = openat(AT_FDCWD, in_rundir("notify", domid), O_RDWR | O_NONBLOCK);
    return notify_fds[port] < 0 ? -1 : (int)port;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    if (port < PORTS && notify_fds[port] > 0)
        close(notify_fds[port]);
    if (port < PORTS)
        notify_fds[port] = 0;
    return 0;
}

/* libxengnttab */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    return (xengnttab_handle *)&handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    int fd = openat(AT_FDCWD, in_rundir("ring", domid), O_RDWR);
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);

    if (fd >= 0)
        close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    return munmap(start_address, (size_t)count * PAGE);
}
