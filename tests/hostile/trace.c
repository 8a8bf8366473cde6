/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pages that note every access: each faults, is noted, single-stepped, and the pages are closed again.
 */
#define _GNU_SOURCE
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

void *trace_pages(size_t pages)
{
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    struct sigaction step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    length = pages * 4096;
    base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGTRAP, &step, NULL);
    return base;
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
