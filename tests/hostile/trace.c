/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pages that note every access: each faults, is noted, single-stepped, and the pages are closed again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#define TRAP_FLAG 0x100

static uint8_t *base;
static size_t length;
uint32_t trace_offset[65536];
uint8_t trace_write[65536];
volatile int trace_count;

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint8_t *address = info->si_addr;
    if (address < base || address >= base + length) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    if (trace_count < 65536) {
        trace_offset[trace_count] = (uint32_t)(address - base);
        trace_write[trace_count++] = registers[REG_ERR] >> 1 & 1;
    }
    mprotect(base, length, PROT_READ | PROT_WRITE);
    registers[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    mprotect(base, length, PROT_NONE);
}

/* From now on whatever any thread does there is noted.  One thread at a time: what another does during a step is not. */
void trace_watch(void *address, size_t pages)
{
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    struct sigaction step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    base = address;
    length = pages * 4096;
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGTRAP, &step, NULL);
}

void *trace_pages(size_t pages)
{
    void *address = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    trace_watch(address, pages);
    return address;
}

/* Preloaded: threads of ours block all signals, and these two must come through. */
int pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
{
    int (*real)(int, const sigset_t *, sigset_t *) = dlsym(RTLD_NEXT, "pthread_sigmask");
    sigset_t but;
    if (set) {
        but = *set;
        sigdelset(&but, SIGSEGV);
        sigdelset(&but, SIGTRAP);
    }
    return real(how, set ? &but : NULL, before);
}

void trace_begin(void)
{
    trace_count = 0;
    mprotect(base, length, PROT_NONE);
}

void trace_end(void)
{
    mprotect(base, length, PROT_READ | PROT_WRITE);
}
