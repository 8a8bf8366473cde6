/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The in-flight journal of one ring: a file on tmpfs that survives the worker (not the host).  Requests
 * are copied out of the ring straight into its slots, so keeping it costs nothing extra; a later worker
 * replays the slots that were consumed and not answered.  Plain stores in program order are enough (a
 * killed process stops between two instructions), so writers use compiler barriers only.
 *
 *   consume:  copy the request into a free slot; idx; valid = 1; header.req_cons = idx + 1; start the I/O
 *   publish:  write the response into the ring; rsp_idx and answered = 1; header.rsp_before = header.rsp_prod;
 *             header.rsp_prod; the ring's rsp_prod; valid = 0
 *   adopt:    only a ring that the journal is of (generation.pyx): it has the nonce, and its rsp_prod is
 *             header.rsp_prod or header.rsp_before.  A slot with idx == header.req_cons was only being consumed, one
 *             answered below header.rsp_prod was answered: valid = 0.  All others: answered = 0, and they are begun
 *             again, oldest first.  The ring's rsp_prod = header.rsp_prod: those responses were all written before.
 *
 * Versions: 1 (xenvbd 0.1) ends with the writer, and has no nonce.  A worker that goes on with one makes it a 2.
 */
#ifndef XENVBD_JOURNAL_H
#define XENVBD_JOURNAL_H

#include <xenvbd/blkif_abi.h>

#define XENVBD_JOURNAL_MAGIC 0x4c4e524a44425658ull    /* "XVBDJRNL" */
#define XENVBD_JOURNAL_VERSION 2u
#define XENVBD_JOURNAL_OLDEST 1u                      /* that can be read */
#define XENVBD_MAX_RING_PAGES 16u
#define XENVBD_JOURNAL_HEADER_SIZE 4096u              /* the slots start here */

struct xenvbd_journal_slot {
    uint32_t valid;                    /* 1: consumed, or being consumed if idx >= header.req_cons */
    uint32_t idx;                      /* the request's ring index */
    uint32_t answered;                 /* 1: rsp_idx holds */
    uint32_t rsp_idx;                  /* the response's ring index */
    struct xenvbd_request request;
};
static_assert(sizeof(struct xenvbd_journal_slot) == 128, "journal slot: two cache lines");

struct xenvbd_journal_header {
    uint64_t magic;
    uint32_t version;
    uint32_t nr_slots;                 /* ring entries */
    char boot_id[40];                  /* /proc/sys/kernel/random/boot_id */
    uint32_t domid, devid, queue;
    uint32_t evtchn;                   /* the frontend's port */
    uint32_t abi;                      /* enum xenvbd_abi */
    uint32_t ring_pages;
    uint32_t ring_ref[XENVBD_MAX_RING_PAGES];
    uint64_t image_dev, image_ino;
    uint64_t capacity;                 /* 512-byte sectors */
    uint32_t failed;                   /* a flush failed: nothing after it may be answered */
    uint32_t req_cons;                 /* requests below this index were consumed */
    uint32_t rsp_prod;                 /* responses below this index were published, or are about to be */
    char writer[24];                   /* the version of xenvbd that made it, for messages */
    /* since version 2 */
    uint32_t rsp_before;               /* rsp_prod as it was before the last batch was published */
    uint32_t nonce[XENVBD_NONCE_WORDS];    /* of this connection; the ring has it too (blkif_abi.h) */
};
static_assert(offsetof(struct xenvbd_journal_header, rsp_before) == 204, "version 1 ends here");
static_assert(sizeof(struct xenvbd_journal_header) <= XENVBD_JOURNAL_HEADER_SIZE, "journal header");

#endif
