/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A load on a vhost-user-blk server's UNIX socket, for scripts/bench: one split virtqueue in shared memory, with
 * event indices, as a guest's virtio-blk has it; batches, and one kick a batch if the server asks for it.
 *
 *   vhostload [--poll] SOCKET read|write random|sequential BYTES DEPTH SECONDS SIZE
 *                                                           prints: requests seconds kicks calls
 *
 * --poll: look at the used ring all the time, and ask for no notification.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* docs/interop/vhost-user.rst of QEMU */
enum {
    GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10, SET_VRING_KICK = 12, SET_VRING_CALL = 13, GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18,
};
enum { VERSION = 1, DESCRIPTORS = 1024, EACH = 3, MOST = DESCRIPTORS / EACH };
#define FEATURES (1ull << 32 | 1ull << 30 | 1ull << VIRTIO_RING_F_EVENT_IDX)      /* version 1, protocol features */

struct message {
    uint32_t request, flags, size;
    union {
        uint64_t u64;
        struct { uint32_t index, num; } state;
        struct { uint32_t index, flags; uint64_t desc, used, avail, log; } address;
        struct { uint32_t count, padding; uint64_t guest, size, user, offset; } memory;
    };
} __attribute__((packed));
enum { HEADER = 12 };

/* What client and server share; the data follows on a page of its own. */
struct shared {
    _Alignas(4096) struct vring_desc desc[DESCRIPTORS];
    _Alignas(4096) struct { uint16_t flags, idx, ring[DESCRIPTORS], used_event; } avail;
    _Alignas(4096) struct { uint16_t flags, idx; struct vring_used_elem ring[DESCRIPTORS]; uint16_t avail_event; } used;
    _Alignas(4096) struct virtio_blk_outhdr head[MOST];
    uint8_t status[MOST];
};

static int server, kick_fd, call_fd, memory_fd;
static struct shared *ring;
static char *data;
static size_t shared_size;
static uint64_t disk_size, seed = 1, cursor;
static unsigned long kicks, calls;
static uint16_t seen;
static bool polling;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* -- Setting up ------------------------------------------------------------------------------------------ */

static void tell(uint32_t request, struct message *m, uint32_t size, int fd)
{
    char control[CMSG_SPACE(sizeof(fd))] = {0};
    struct iovec iov = {m, HEADER + size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    m->request = request, m->flags = VERSION, m->size = size;
    if (fd >= 0) {
        message.msg_control = control, message.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(fd));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    if (sendmsg(server, &message, MSG_NOSIGNAL) != (ssize_t)(HEADER + size))
        err(1, "the server takes nothing");
}

static uint64_t ask(uint32_t request)
{
    struct message m = {0};
    tell(request, &m, 0, -1);
    if (recv(server, &m, HEADER + 8, MSG_WAITALL) != HEADER + 8 || m.request != request)
        errx(1, "no answer to request %u", request);
    return m.u64;
}

static void tell_u64(uint32_t request, uint64_t value, int fd)
{
    struct message m = {.u64 = value};
    tell(request, &m, sizeof(m.u64), fd);
}

static void tell_state(uint32_t request, uint32_t num)
{
    struct message m = {.state = {0, num}};
    tell(request, &m, sizeof(m.state), -1);
}

static void negotiate(void)
{
    if (~ask(GET_FEATURES) & FEATURES)
        errx(1, "the server lacks features");
    ask(GET_PROTOCOL_FEATURES);
    tell_u64(SET_PROTOCOL_FEATURES, 0, -1);
    struct message m = {0};
    tell(SET_OWNER, &m, 0, -1);
    tell_u64(SET_FEATURES, FEATURES, -1);
}

/* Our addresses serve as the guest's. */
static void share(void)
{
    struct message m = {.memory = {1, 0, (uintptr_t)ring, shared_size, (uintptr_t)ring, 0}};
    tell(SET_MEM_TABLE, &m, sizeof(m.memory), memory_fd);
    tell_state(SET_VRING_NUM, DESCRIPTORS);
    tell_state(SET_VRING_BASE, 0);
    m = (struct message){.address = {0, 0, (uintptr_t)ring->desc, (uintptr_t)&ring->used, (uintptr_t)&ring->avail, 0}};
    tell(SET_VRING_ADDR, &m, sizeof(m.address), -1);
    tell_u64(SET_VRING_CALL, 0, call_fd);
    tell_u64(SET_VRING_KICK, 0, kick_fd);
    tell_state(SET_VRING_ENABLE, 1);
}

static void allocate(uint32_t bytes, unsigned depth)
{
    shared_size = sizeof(*ring) + (size_t)bytes * depth;
    memory_fd = memfd_create("vhostload", MFD_CLOEXEC);
    if (memory_fd < 0 || ftruncate(memory_fd, shared_size))
        err(1, "memory");
    ring = mmap(NULL, shared_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_fd, 0);
    if (ring == MAP_FAILED)
        err(1, "memory");
    data = (char *)(ring + 1);
    kick_fd = eventfd(0, EFD_CLOEXEC);
    call_fd = eventfd(0, EFD_CLOEXEC);
}

static void reach(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(server, (struct sockaddr *)&address, sizeof(address)))
        err(1, "%s", path);
}

/* A request has its three descriptors for good: head, data, status. */
static void describe(unsigned slot, bool writing, uint32_t bytes)
{
    struct vring_desc *d = &ring->desc[slot * EACH];
    uint16_t to_us = writing ? 0 : VRING_DESC_F_WRITE;
    d[0] = (struct vring_desc){(uintptr_t)&ring->head[slot], sizeof(ring->head[slot]), VRING_DESC_F_NEXT, slot * EACH + 1};
    d[1] = (struct vring_desc){(uintptr_t)data + (size_t)slot * bytes, bytes, VRING_DESC_F_NEXT | to_us, slot * EACH + 2};
    d[2] = (struct vring_desc){(uintptr_t)&ring->status[slot], 1, VRING_DESC_F_WRITE, 0};
    ring->head[slot].type = writing ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
}

/* -- The load -------------------------------------------------------------------------------------------- */

static uint64_t next_offset(bool randomly, uint32_t bytes)
{
    uint64_t blocks = disk_size / bytes;
    if (!randomly)
        return cursor++ % blocks * bytes;
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % blocks * bytes;
}

static void put(unsigned slot, uint16_t at, uint64_t offset)
{
    ring->head[slot].sector = offset / 512;
    ring->status[slot] = 0xff;
    ring->avail.ring[at % DESCRIPTORS] = slot * EACH;
}

/* Publish up to `end`, and kick if the server asked for that (virtio 1.1, 2.6.7.1). */
static void publish(uint16_t end)
{
    uint16_t start = ring->avail.idx;
    uint64_t one = 1;
    __atomic_store_n(&ring->avail.idx, end, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t event = __atomic_load_n(&ring->used.avail_event, __ATOMIC_RELAXED);
    if ((uint16_t)(end - event - 1) < (uint16_t)(end - start)) {
        kicks++;
        if (write(kick_fd, &one, sizeof(one)) < 0)
            err(1, "kick");
    }
}

static uint16_t used_now(void)
{
    return __atomic_load_n(&ring->used.idx, __ATOMIC_ACQUIRE);
}

/* Until something is used. */
static void await(void)
{
    uint64_t count;
    while (used_now() == seen) {
        if (polling) {
            __builtin_ia32_pause();
            continue;
        }
        __atomic_store_n(&ring->avail.used_event, seen, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (used_now() != seen)
            return;
        calls++;
        struct pollfd ready = {.fd = call_fd, .events = POLLIN};
        if (poll(&ready, 1, -1) != 1 || read(call_fd, &count, sizeof(count)) < 0)   /* QEMU makes it non-blocking */
            err(1, "call");
    }
}

/* Put the slots of finished requests on the stack; how many. */
static unsigned reap(unsigned *slots)
{
    uint16_t end = used_now();
    unsigned n = 0;
    for (; seen != end; seen++, n++) {
        slots[n] = ring->used.ring[seen % DESCRIPTORS].id / EACH;
        if (ring->status[slots[n]] != VIRTIO_BLK_S_OK)
            errx(1, "a request failed: status %u", ring->status[slots[n]]);
    }
    return n;
}

static void load(bool randomly, uint32_t bytes, unsigned depth, double seconds)
{
    unsigned slots[MOST], free_slots = depth;
    unsigned long total = 0;
    uint16_t at = 0;
    double start = now(), end = start + seconds, time = start;
    for (unsigned i = 0; i < depth; i++)
        slots[i] = i;
    while (time < end || free_slots < depth) {
        if (free_slots && time < end) {
            while (free_slots)
                put(slots[--free_slots], at++, next_offset(randomly, bytes));
            publish(at);
        }
        await();
        unsigned done = reap(slots + free_slots);
        free_slots += done;
        total += done;
        time = now();
    }
    printf("%lu %f %lu %lu\n", total, time - start, kicks, calls);
}

int main(int argc, char **argv)
{
    polling = argc > 1 && !strcmp(argv[1], "--poll");
    argc -= polling, argv += polling;
    if (argc != 8)
        errx(2, "usage: vhostload [--poll] SOCKET read|write random|sequential BYTES DEPTH SECONDS SIZE");
    bool writing = !strcmp(argv[2], "write"), randomly = !strcmp(argv[3], "random");
    uint32_t bytes = atoi(argv[4]);
    unsigned depth = atoi(argv[5]);
    disk_size = strtoull(argv[7], NULL, 10);
    if (depth == 0 || depth > MOST || bytes == 0 || disk_size < bytes)
        errx(2, "1 to %u requests of 1 byte to the disk's size", MOST);
    reach(argv[1]);
    allocate(bytes, depth);
    for (unsigned i = 0; i < depth; i++)
        describe(i, writing, bytes);
    negotiate();
    share();
    load(randomly, bytes, depth, atof(argv[6]));
    return 0;
}
