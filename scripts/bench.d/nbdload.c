/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A load on an NBD server's UNIX socket, for scripts/bench: as many requests in flight as it is told, written and
 * read in batches, so that the client costs the server as little time as a client can.
 *
 *   nbdload SOCKET read|write random|sequential BYTES DEPTH SECONDS      prints: requests seconds
 */
#include <endian.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_MAGIC = 0x25609513, REPLY_MAGIC = 0x67446698, OPT_EXPORT_NAME = 1, HEADER = 28, REPLY = 16 };

static int fd;
static uint64_t size, seed = 1, cursor;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void get(void *into, size_t length)
{
    for (char *p = into; length;) {
        ssize_t n = read(fd, p, length);
        if (n <= 0)
            err(1, "the server has gone");
        p += n;
        length -= n;
    }
}

static void put(const void *from, size_t length)
{
    for (const char *p = from; length;) {
        ssize_t n = write(fd, p, length);
        if (n <= 0)
            err(1, "the server takes nothing");
        p += n;
        length -= n;
    }
}

/* The fixed newstyle handshake, ended with NBD_OPT_EXPORT_NAME of the default export. */
static void handshake(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct { uint64_t magic, version; uint16_t flags; } __attribute__((packed)) hello;
    struct { uint32_t flags; uint64_t magic; uint32_t option, length; } __attribute__((packed)) choice = {
        htobe32(3), htobe64(0x49484156454f5054ull), htobe32(OPT_EXPORT_NAME), 0};
    struct { uint64_t size; uint16_t flags; } __attribute__((packed)) export;
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
        err(1, "%s", path);
    get(&hello, sizeof(hello));
    put(&choice, sizeof(choice));               /* fixed newstyle, no zeroes */
    get(&export, sizeof(export));
    size = be64toh(export.size);
}

static uint64_t next_offset(int randomly, uint32_t bytes)
{
    uint64_t blocks = size / bytes;
    if (!randomly)
        return cursor++ % blocks * bytes;
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % blocks * bytes;
}

static char *fill(char *p, int writing, int randomly, uint32_t bytes)
{
    uint32_t magic = htobe32(REQUEST_MAGIC), length = htobe32(bytes);
    uint16_t zero = 0, type = htobe16(writing);
    uint64_t handle = 0, offset = htobe64(next_offset(randomly, bytes));
    memcpy(p, &magic, 4), memcpy(p + 4, &zero, 2), memcpy(p + 6, &type, 2), memcpy(p + 8, &handle, 8);
    memcpy(p + 16, &offset, 8), memcpy(p + 24, &length, 4);
    return p + HEADER + (writing ? bytes : 0);
}

/* Take whole replies out of the buffer; how many bytes they were. */
static size_t parse(const char *buffer, size_t have, size_t reply, unsigned *count)
{
    size_t used = 0;
    while (have - used >= reply) {
        uint32_t magic, error;
        memcpy(&magic, buffer + used, 4), memcpy(&error, buffer + used + 4, 4);
        if (magic != htobe32(REPLY_MAGIC) || error)
            errx(1, "reply %x, error %u", be32toh(magic), be32toh(error));
        used += reply;
        ++*count;
    }
    return used;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        errx(2, "usage: nbdload SOCKET read|write random|sequential BYTES DEPTH SECONDS");
    int writing = !strcmp(argv[2], "write"), randomly = !strcmp(argv[3], "random");
    uint32_t bytes = atoi(argv[4]);
    unsigned depth = atoi(argv[5]), free_slots = depth;
    size_t reply = REPLY + (writing ? 0 : bytes), room = depth * reply + 65536, have = 0;
    char *out = calloc(depth, HEADER + bytes), *in = malloc(room);
    unsigned long total = 0;
    handshake(argv[1]);
    double start = now(), end = start + atof(argv[6]), at = start;
    while (at < end || free_slots < depth) {
        char *p = out;
        for (; free_slots && at < end; free_slots--)
            p = fill(p, writing, randomly, bytes);
        if (p != out)
            put(out, p - out);
        ssize_t n = read(fd, in + have, room - have);
        if (n <= 0)
            err(1, "the server has gone");
        unsigned done = 0;
        have += n;
        size_t used = parse(in, have, reply, &done);
        memmove(in, in + used, have -= used);
        free_slots += done;
        total += done;
        at = now();
    }
    printf("%lu %f\n", total, at - start);
    return 0;
}
