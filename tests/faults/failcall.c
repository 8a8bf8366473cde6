/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into a process: counts the system calls and allocations that our modules (and Python's os module for us) make
 * while armed, and lets one of them fail, the one whose number was set, with an error that this call can really have.  The
 * simulated machine's own calls are left alone: what it stands for fails by its own faults.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

unsigned long xenvbd_fail_at;           /* 0: none */
unsigned long xenvbd_fail_count;
unsigned xenvbd_fail_variant;           /* of the errors of a call: which */
unsigned xenvbd_fail_armed;
char xenvbd_fail_name[64];              /* what failed, and how */

/* 1: of our modules; 2: of the simulated machine; 0: of somebody else, Python for one. */
static int caller_is(void *address)
{
    Dl_info info;
    if (!dladdr(address, &info) || !info.dli_fname)
        return 0;
    if (strstr(info.dli_fname, "/hv/sim.") || strstr(info.dli_fname, "failcall"))
        return 2;
    return strstr(info.dli_fname, "/xenvbd/") != NULL;
}

/* The error to fail with, or 0. */
static int hit(void *caller, int ours_only, const char *name, int first, int second)
{
    int who, error;
    if (!__atomic_load_n(&xenvbd_fail_armed, __ATOMIC_SEQ_CST))
        return 0;
    who = caller_is(caller);
    if (who == 2 || (ours_only && who != 1))
        return 0;
    if (__atomic_add_fetch(&xenvbd_fail_count, 1, __ATOMIC_SEQ_CST) != xenvbd_fail_at)
        return 0;
    error = xenvbd_fail_variant ? second : first;
    snprintf(xenvbd_fail_name, sizeof(xenvbd_fail_name), "%s: %s", name, strerrorname_np(error));
    return error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAILS(name, first, second, value)                                            \
    do {                                                                             \
        int error_ = hit(__builtin_return_address(0), 0, name, first, second);       \
        if (error_) {                                                                \
            errno = error_;                                                          \
            return value;                                                            \
        }                                                                            \
    } while (0)
/* liburing returns its errors. */
#define RING_FAILS(name, first, second)                                              \
    do {                                                                             \
        int error_ = hit(__builtin_return_address(0), 0, name, first, second);       \
        if (error_)                                                                  \
            return -error_;                                                          \
    } while (0)

int open64(const char *path, int flags, ...)
{
    va_list more;
    int mode;
    va_start(more, flags);
    mode = va_arg(more, int);
    va_end(more);
    FAILS("open", EMFILE, EINTR, -1);
    return REAL(open64)(path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    va_list more;
    int mode;
    va_start(more, flags);
    mode = va_arg(more, int);
    va_end(more);
    FAILS("openat", EMFILE, ENOMEM, -1);
    return REAL(openat64)(directory, path, flags, mode);
}

int eventfd(unsigned value, int flags)
{
    FAILS("eventfd", EMFILE, ENOMEM, -1);
    return REAL(eventfd)(value, flags);
}

/* S_IFREG, S_IFSOCK; an eventfd has no type, and neither allocates nor fails. */
static mode_t type_of(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_mode & S_IFMT : 0;
}

ssize_t read(int fd, void *data, size_t length)
{
    mode_t type = type_of(fd);
    if (type == S_IFREG)
        FAILS("read", EIO, EINTR, -1);
    else if (type == S_IFSOCK)
        FAILS("read", EINTR, ENOMEM, -1);
    else
        FAILS("read", EINTR, EINTR, -1);
    return REAL(read)(fd, data, length);
}

ssize_t write(int fd, const void *data, size_t length)
{
    mode_t type = type_of(fd);
    if (type == S_IFREG)
        FAILS("write", ENOSPC, EIO, -1);
    else if (type == S_IFSOCK)
        FAILS("write", ENOMEM, EPIPE, -1);
    return REAL(write)(fd, data, length);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset)
{
    FAILS("pread", EIO, EINTR, -1);
    return REAL(pread64)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    FAILS("pwrite", EIO, EINTR, -1);
    return REAL(pwrite64)(fd, data, length, offset);
}

ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    FAILS("preadv", EIO, EINTR, -1);
    return REAL(preadv64)(fd, iov, count, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    FAILS("preadv2", EIO, EINTR, -1);
    return REAL(preadv64v2)(fd, iov, count, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    FAILS("pwritev2", EIO, EINTR, -1);
    return REAL(pwritev64v2)(fd, iov, count, offset, flags);
}

int fdatasync(int fd)
{
    FAILS("fdatasync", EIO, ENOSPC, -1);
    return REAL(fdatasync)(fd);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    FAILS("fallocate", EIO, EINTR, -1);
    return REAL(fallocate64)(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    FAILS("fallocate", EIO, EINTR, -1);
    return REAL(fallocate)(fd, mode, offset, length);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    int error = hit(__builtin_return_address(0), 0, "posix_fallocate", ENOSPC, EINTR);
    return error ? error : REAL(posix_fallocate64)(fd, offset, length);
}

int ftruncate64(int fd, off64_t length)
{
    FAILS("ftruncate", EINTR, EIO, -1);
    return REAL(ftruncate64)(fd, length);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    FAILS("mmap", ENOMEM, EAGAIN, MAP_FAILED);
    return REAL(mmap64)(address, length, protection, flags, fd, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    FAILS("mmap", ENOMEM, EAGAIN, MAP_FAILED);
    return REAL(mmap)(address, length, protection, flags, fd, offset);
}

int madvise(void *address, size_t length, int advice)
{
    FAILS("madvise", ENOMEM, EAGAIN, -1);
    return REAL(madvise)(address, length, advice);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    FAILS("ppoll", EINTR, ENOMEM, -1);
    return REAL(ppoll)(fds, count, timeout, mask);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int error = hit(__builtin_return_address(0), 0, "pthread_create", EAGAIN, EAGAIN);
    return error ? error : REAL(pthread_create)(thread, attributes, start, argument);
}

/* Descriptors, processes and sockets: what a manager needs. */

int fcntl64(int fd, int command, ...)
{
    va_list more;
    void *argument;
    va_start(more, command);
    argument = va_arg(more, void *);
    va_end(more);
    FAILS("fcntl", ENOLCK, ENOMEM, -1);
    return REAL(fcntl64)(fd, command, argument);
}

int fstat64(int fd, struct stat64 *status)
{
    FAILS("fstat", EIO, ENOMEM, -1);
    return REAL(fstat64)(fd, status);
}

int unlink(const char *path)
{
    FAILS("unlink", ENOMEM, EIO, -1);
    return REAL(unlink)(path);
}

int rename(const char *from, const char *to)
{
    FAILS("rename", ENOSPC, EIO, -1);
    return REAL(rename)(from, to);
}

int pipe2(int fds[2], int flags)
{
    FAILS("pipe2", EMFILE, ENFILE, -1);
    return REAL(pipe2)(fds, flags);
}

pid_t fork(void)
{
    FAILS("fork", EAGAIN, ENOMEM, -1);
    return REAL(fork)();
}

/* A function around vfork() would return twice to a frame that is gone: a fork will do. */
pid_t vfork(void)
{
    FAILS("fork", EAGAIN, ENOMEM, -1);
    return REAL(fork)();
}

int execve(const char *path, char *const arguments[], char *const environment[])
{
    FAILS("execve", ENOMEM, ENOENT, -1);
    return REAL(execve)(path, arguments, environment);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    FAILS("waitpid", EINTR, ECHILD, -1);
    return REAL(waitpid)(pid, status, options);
}

int socket(int domain, int type, int protocol)
{
    FAILS("socket", EMFILE, ENOBUFS, -1);
    return REAL(socket)(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    FAILS("socketpair", EMFILE, ENFILE, -1);
    return REAL(socketpair)(domain, type, protocol, fds);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    FAILS("connect", EAGAIN, ENOMEM, -1);
    return REAL(connect)(fd, address, length);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    FAILS("accept", EMFILE, ECONNABORTED, -1);
    return REAL(accept4)(fd, address, length, flags);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    FAILS("getsockopt", ENOBUFS, ENOMEM, -1);
    return REAL(getsockopt)(fd, level, name, value, length);
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    FAILS("send", ENOBUFS, EPIPE, -1);
    return REAL(send)(fd, data, length, flags);
}

ssize_t recv(int fd, void *data, size_t length, int flags)
{
    FAILS("recv", ENOMEM, ECONNRESET, -1);
    return REAL(recv)(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    FAILS("sendmsg", ETOOMANYREFS, ENOMEM, -1);
    return REAL(sendmsg)(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    FAILS("recvmsg", ENOMEM, ECONNRESET, -1);
    return REAL(recvmsg)(fd, message, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_ADD)         /* the others allocate nothing */
        FAILS("epoll_ctl", ENOMEM, ENOSPC, -1);
    return REAL(epoll_ctl)(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    FAILS("epoll_wait", EINTR, EINTR, -1);
    return REAL(epoll_wait)(epoll, events, count, timeout);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    FAILS("poll", EINTR, ENOMEM, -1);
    return REAL(poll)(fds, count, timeout);
}

/* What glibc's own are called: dlsym() allocates. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);

void *malloc(size_t size)
{
    if (hit(__builtin_return_address(0), 1, "malloc", ENOMEM, ENOMEM))
        return NULL;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (hit(__builtin_return_address(0), 1, "calloc", ENOMEM, ENOMEM))
        return NULL;
    return __libc_calloc(count, size);
}

/* io_uring's restrictions, and openat2() of Python's. */
long syscall(long number, ...)
{
    va_list more;
    long a[6];
    int i;
    va_start(more, number);
    for (i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    FAILS("syscall", ENOMEM, EMFILE, -1);
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    RING_FAILS("io_uring_setup", ENOMEM, EMFILE);
    return REAL(io_uring_queue_init_params)(entries, ring, params);
}

int io_uring_register_files(struct io_uring *ring, const int *files, unsigned count)
{
    RING_FAILS("io_uring_register_files", EMFILE, ENOMEM);
    return REAL(io_uring_register_files)(ring, files, count);
}

int io_uring_register_files_update(struct io_uring *ring, unsigned offset, const int *files, unsigned count)
{
    RING_FAILS("io_uring_register_files_update", ENOMEM, EMFILE);
    return REAL(io_uring_register_files_update)(ring, offset, files, count);
}

int io_uring_register_buffers(struct io_uring *ring, const struct iovec *iov, unsigned count)
{
    RING_FAILS("io_uring_register_buffers", ENOMEM, EINTR);
    return REAL(io_uring_register_buffers)(ring, iov, count);
}

int io_uring_register_ring_fd(struct io_uring *ring)
{
    RING_FAILS("io_uring_register_ring_fd", EBUSY, ENOMEM);
    return REAL(io_uring_register_ring_fd)(ring);
}

int io_uring_register_iowq_max_workers(struct io_uring *ring, unsigned *values)
{
    RING_FAILS("io_uring_register_iowq_max_workers", ENOMEM, EINTR);
    return REAL(io_uring_register_iowq_max_workers)(ring, values);
}

struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring)
{
    if (hit(__builtin_return_address(0), 0, "io_uring_get_probe_ring", ENOMEM, ENOMEM))
        return NULL;
    return REAL(io_uring_get_probe_ring)(ring);
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
    RING_FAILS("io_uring_submit_and_get_events", EAGAIN, EINTR);
    return REAL(io_uring_submit_and_get_events)(ring);
}

int io_uring_get_events(struct io_uring *ring)
{
    RING_FAILS("io_uring_get_events", EINTR, EAGAIN);
    return REAL(io_uring_get_events)(ring);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned count,
                                     struct __kernel_timespec *timeout, sigset_t *mask)
{
    RING_FAILS("io_uring_submit_and_wait_timeout", EINTR, EAGAIN);
    return REAL(io_uring_submit_and_wait_timeout)(ring, cqe, count, timeout, mask);
}
