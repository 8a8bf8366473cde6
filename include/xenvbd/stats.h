/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The counters of one queue: an array of 64-bit words in shared memory with a single writer (the I/O
 * thread, plain stores) and any number of readers.  Nothing is ever reset; readers subtract snapshots.
 * xenvbd/stats.py names the words; a test holds the two against each other.
 */
#ifndef XENVBD_STATS_H
#define XENVBD_STATS_H

#include <stdint.h>

#define XENVBD_STATS_MAGIC 0x31544154534456ull         /* "VDSTAT1" */
#define XENVBD_HISTOGRAM_BUCKETS 128                   /* log2 with 4 sub-buckets, of nanoseconds */

enum xenvbd_stat_op { XENVBD_STAT_READ, XENVBD_STAT_WRITE, XENVBD_STAT_FLUSH, XENVBD_STAT_DISCARD,
                      XENVBD_STAT_OPS };

struct xenvbd_op_stats {
    uint64_t ops, bytes, errors;
    uint64_t nanoseconds;                              /* sum of latencies */
    uint64_t histogram[XENVBD_HISTOGRAM_BUCKETS];      /* latency, consume to publish */
};

struct xenvbd_stats {
    uint64_t magic;
    uint64_t inflight;                                 /* requests consumed and not answered */
    uint64_t passes;                                   /* times the loop found work */
    uint64_t wakeups;                                  /* times the thread slept and was woken */
    uint64_t events_in;                                /* event channel notifications received */
    uint64_t events_out;                               /* sent */
    uint64_t pushes;                                   /* batches of responses published */
    uint64_t invalid;                                  /* requests refused: answered with an error */
    uint64_t unsupported;                              /* answered EOPNOTSUPP */
    uint64_t grant_copies;                             /* calls */
    uint64_t grant_segments;                           /* segments copied */
    uint64_t grant_errors;                             /* segments that failed */
    uint64_t grants_kept;                              /* pages of the guest that stay mapped, now */
    uint64_t submits;                                  /* system calls that submitted or waited for I/O */
    uint64_t starved;                                  /* times consuming stopped for want of buffers */
    uint64_t quarantined;                              /* 1: the ring was stopped for good */
    uint64_t stopped;                                  /* enum xenvbd_stop: why the device holds requests */
    struct xenvbd_op_stats op[XENVBD_STAT_OPS];
};

enum xenvbd_stop { XENVBD_STOP_NONE, XENVBD_STOP_NOSPC, XENVBD_STOP_FLUSH, XENVBD_STOP_IO };

/* The bucket of a latency: 4 buckets a power of two, so a percentile is right within 19 %. */
static inline unsigned xenvbd_histogram_bucket(uint64_t ns)
{
    if (ns < 4)
        return (unsigned)ns;
    unsigned log2 = 63u - (unsigned)__builtin_clzll(ns);
    unsigned bucket = (log2 - 1) * 4 + (unsigned)((ns >> (log2 - 2)) & 3);
    return bucket < XENVBD_HISTOGRAM_BUCKETS ? bucket : XENVBD_HISTOGRAM_BUCKETS - 1;
}

#endif
