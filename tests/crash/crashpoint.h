/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Forced into the modules that write to ring and journal (cc -include): before each of their stores is a place to
 * die.  All shared stores are __atomic_store_n(), and between two stores to the journal stands a signal fence.
 */
#ifndef XENVBD_CRASHPOINT_H
#define XENVBD_CRASHPOINT_H

extern void xenvbd_crashpoint(void);

#define __atomic_store_n(address, value, order) (xenvbd_crashpoint(), __atomic_store_n(address, value, order))
#define __atomic_signal_fence(order) (xenvbd_crashpoint(), __atomic_signal_fence(order))

#endif
