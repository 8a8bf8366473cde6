/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Forced into machine*.c by a test (cc -include): every store to shared memory is a place to die before.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* SIGKILL ourselves at the store number $CRASH_AT. */
static inline void crashpoint(void)
{
    extern unsigned long crash_at, crash_count;
    if (++crash_count == crash_at)
        kill(getpid(), SIGKILL);
}

#undef atomic_store
#define atomic_store(object, value) \
    (crashpoint(), atomic_store_explicit(object, value, memory_order_seq_cst))
#undef atomic_compare_exchange_strong
#define atomic_compare_exchange_strong(object, expected, value) \
    (crashpoint(), atomic_compare_exchange_strong_explicit(object, expected, value, memory_order_seq_cst, \
                                                           memory_order_seq_cst))
