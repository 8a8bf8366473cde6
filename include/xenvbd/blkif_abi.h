/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The blkif ring as it lies in shared memory, in the three ABIs a frontend may speak.  The native
 * structures are those of <xen/io/blkif.h>; x86_32-abi differs in alignment (64-bit fields on 4 bytes)
 * and x86_64-abi is what a 64-bit build has natively.  Only ring.pyx dereferences these.
 */
#ifndef XENVBD_BLKIF_ABI_H
#define XENVBD_BLKIF_ABI_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <xen/xen.h>
#include <xen/io/blkif.h>

#ifndef BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST
#error "blkif.h has no indirect requests"
#endif

#define XENVBD_PAGE_SIZE 4096u
#define XENVBD_SECTOR_SIZE 512u
#define XENVBD_SEGMENTS_PER_INDIRECT_PAGE (XENVBD_PAGE_SIZE / sizeof(struct blkif_request_segment))

enum xenvbd_abi { XENVBD_ABI_NATIVE = 0, XENVBD_ABI_X86_32 = 1, XENVBD_ABI_X86_64 = 2 };

/* The segments need no variant: 4 + 1 + 1 bytes on a 4-byte boundary everywhere. */
static_assert(sizeof(struct blkif_request_segment) == 8, "segment");

#pragma pack(push, 4)
struct xenvbd_x86_32_request {
    uint8_t operation, nr_segments;
    uint16_t handle;
    uint64_t id, sector_number;
    struct blkif_request_segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST];
};
struct xenvbd_x86_32_discard {
    uint8_t operation, flag;
    uint16_t handle;
    uint64_t id, sector_number, nr_sectors;
};
struct xenvbd_x86_32_indirect {
    uint8_t operation, indirect_op;
    uint16_t nr_segments;
    uint64_t id, sector_number;
    uint16_t handle;
    uint32_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
    uint64_t pad;
};
struct xenvbd_x86_32_response {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};
#pragma pack(pop)
static_assert(sizeof(struct xenvbd_x86_32_request) == 108, "x86_32 request");
static_assert(offsetof(struct xenvbd_x86_32_request, id) == 4, "x86_32 id");
static_assert(offsetof(struct xenvbd_x86_32_request, seg) == 20, "x86_32 segments");
static_assert(offsetof(struct xenvbd_x86_32_discard, nr_sectors) == 20, "x86_32 discard");
static_assert(offsetof(struct xenvbd_x86_32_indirect, indirect_grefs) == 24, "x86_32 indirect");
static_assert(sizeof(struct xenvbd_x86_32_indirect) == 64, "x86_32 indirect size");
static_assert(sizeof(struct xenvbd_x86_32_response) == 12, "x86_32 response");
static_assert(offsetof(struct xenvbd_x86_32_response, status) == 10, "x86_32 status");

struct xenvbd_x86_64_request {
    uint8_t operation, nr_segments;
    uint16_t handle;
    uint64_t id __attribute__((aligned(8)));
    uint64_t sector_number;
    struct blkif_request_segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST];
};
struct xenvbd_x86_64_discard {
    uint8_t operation, flag;
    uint16_t handle;
    uint64_t id __attribute__((aligned(8)));
    uint64_t sector_number, nr_sectors;
};
struct xenvbd_x86_64_indirect {
    uint8_t operation, indirect_op;
    uint16_t nr_segments;
    uint64_t id __attribute__((aligned(8)));
    uint64_t sector_number;
    uint16_t handle;
    uint32_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
};
struct xenvbd_x86_64_response {
    uint64_t id __attribute__((aligned(8)));
    uint8_t operation;
    int16_t status;
};
static_assert(sizeof(struct xenvbd_x86_64_request) == 112, "x86_64 request");
static_assert(offsetof(struct xenvbd_x86_64_request, id) == 8, "x86_64 id");
static_assert(offsetof(struct xenvbd_x86_64_request, seg) == 24, "x86_64 segments");
static_assert(offsetof(struct xenvbd_x86_64_discard, nr_sectors) == 24, "x86_64 discard");
static_assert(offsetof(struct xenvbd_x86_64_indirect, indirect_grefs) == 28, "x86_64 indirect");
static_assert(sizeof(struct xenvbd_x86_64_response) == 16, "x86_64 response");
static_assert(offsetof(struct xenvbd_x86_64_response, status) == 10, "x86_64 status");

#ifdef __x86_64__
static_assert(sizeof(blkif_request_t) == sizeof(struct xenvbd_x86_64_request), "native is x86_64");
static_assert(offsetof(blkif_request_t, seg) == offsetof(struct xenvbd_x86_64_request, seg), "native is x86_64");
static_assert(sizeof(blkif_response_t) == sizeof(struct xenvbd_x86_64_response), "native is x86_64");
#endif
static_assert(offsetof(struct blkif_sring, ring) == 64, "ring header");

/* Where the worker writes the nonce of a connection: 16 bytes of the padding, which every frontend clears when it
 * begins a ring and none looks at (docs/decisions/0010).  Some clear no more than up to byte 24. */
#define XENVBD_NONCE_OFFSET 20u
#define XENVBD_NONCE_WORDS 4u

/* A request copied out of the ring, in one layout whatever the ABI: what everything behind the ring
 * looks at.  It is also what the journal keeps (journal.h), so its size and layout are fixed. */
struct xenvbd_request {
    uint8_t operation;                 /* BLKIF_OP_*; BLKIF_OP_INDIRECT stays that */
    uint8_t sub;                       /* INDIRECT: indirect_op; DISCARD: flag; else 0 */
    uint16_t nr_segments;              /* as the guest wrote it, unchecked */
    uint16_t handle;
    uint16_t pad;
    uint64_t id;
    uint64_t sector;                   /* 512-byte units */
    union {
        struct blkif_request_segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST];
        uint32_t indirect_gref[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
        uint64_t nr_sectors;           /* DISCARD */
    } u;
};
static_assert(sizeof(struct xenvbd_request) == 112, "request");

#endif
