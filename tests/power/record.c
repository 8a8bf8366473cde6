/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into a process that serves a disk with the threads engine: appends each write, flush and discard of it, with
 * the times of its beginning and end, to the file named by XENVBD_RECORD; data follows a write's record.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, FLUSH = 2, DISCARD = 3 };

struct record {
    uint64_t kind, begin, end, offset;
    int64_t result;                     /* bytes, or a negative errno */
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* One system call at the end of the file, so that threads do not mix their records. */
static void append(struct record *record, const struct iovec *iov, int count)
{
    static int file = -1;
    struct iovec all[1 + 1024];
    int saved = errno;
    if (__atomic_load_n(&file, __ATOMIC_SEQ_CST) < 0 && getenv("XENVBD_RECORD"))
        __atomic_store_n(&file, open(getenv("XENVBD_RECORD"), O_WRONLY | O_APPEND | O_CREAT, 0600), __ATOMIC_SEQ_CST);
    all[0].iov_base = record;
    all[0].iov_len = sizeof(*record);
    for (int i = 0; i < count; i++)
        all[1 + i] = iov[i];
    if (writev(file, all, 1 + count) < 0)
        abort();
    errno = saved;
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off64_t, int) = dlsym(RTLD_NEXT, "pwritev64v2");
    struct record record = {.kind = WRITE, .begin = now(), .offset = (uint64_t)offset};
    ssize_t rc = real(fd, iov, count, offset, flags);
    record.end = now();
    record.result = rc < 0 ? -errno : rc;
    append(&record, iov, count);
    return rc;
}

int fdatasync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    struct record record = {.kind = FLUSH, .begin = now()};
    int rc = real(fd);
    record.end = now();
    record.result = rc < 0 ? -errno : 0;
    append(&record, NULL, 0);
    return rc;
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    int (*real)(int, int, off_t, off_t) = dlsym(RTLD_NEXT, "fallocate");
    struct record record = {.kind = DISCARD, .begin = now(), .offset = (uint64_t)offset};
    int rc = real(fd, mode, offset, length);
    record.end = now();
    record.result = rc < 0 ? -errno : length;
    append(&record, NULL, 0);
    return rc;
}
