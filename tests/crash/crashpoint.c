/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into a process whose modules were compiled with crashpoint.h: counts the places it passes, and dies by
 * SIGKILL at the one whose number was set.
 */
#include <signal.h>
#include <unistd.h>

unsigned long xenvbd_crash_at;          /* 0: never */
unsigned long xenvbd_crash_count;

void xenvbd_crashpoint(void);

void xenvbd_crashpoint(void)
{
    if (__atomic_add_fetch(&xenvbd_crash_count, 1, __ATOMIC_SEQ_CST) == xenvbd_crash_at)
        kill(getpid(), SIGKILL);
}
