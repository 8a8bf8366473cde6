"""The I/O thread of a queue: passes while there is work, one system call to sleep when there is none.

It holds the GIL only to begin and to end.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from xenvbd.dataplane.adopt cimport adopt
from xenvbd.dataplane.arena cimport arena_trim
from xenvbd.dataplane.device cimport device_failed, device_leave
from xenvbd.dataplane.discards cimport discards_cut, discards_quit
from xenvbd.dataplane.events cimport EVENT_STOPPED, event_post
from xenvbd.dataplane.execute cimport follow_failure, retry_all, retry_held
from xenvbd.dataplane.intake cimport intake, look_once_more, may_consume
from xenvbd.dataplane.kept cimport kept_sweep
from xenvbd.dataplane.queue cimport (
    ORDER_ABANDON,
    ORDER_HAND_OVER,
    ORDER_RESUME,
    ORDER_STOP,
    SILENT_ABANDONED,
    TAG_CONTROL,
    TAG_EVTCHN,
    Queue,
)
from xenvbd.dataplane.reply cimport collect
from xenvbd.dataplane.tally cimport now_ns
from xenvbd.disk.oplist cimport chain_begin, chain_empty, chain_end
from xenvbd.ring cimport back_final_check, back_pending

cdef extern from * nogil:
    enum:
        __ATOMIC_RELAXED
        __ATOMIC_SEQ_CST
    uint32_t load "__atomic_load_n"(const uint32_t *p, int order) noexcept
    uint32_t swap "__atomic_exchange_n"(uint32_t *p, uint32_t value, int order) noexcept

cdef extern from * nogil:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define xenvbd_thread_relax() __builtin_ia32_pause()
    #else
    #define xenvbd_thread_relax() __asm__ volatile("" ::: "memory")
    #endif
    """
    void relax "xenvbd_thread_relax"() noexcept

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void *data, size_t length) noexcept
    int usleep(unsigned useconds) noexcept

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t *set) noexcept
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) noexcept

cdef enum:
    POLL_LOOKS = 16                 # at the ring between two at the clock
    POLL_LEAST_NS = 1000            # a shorter time is none
    POLL_FIRST_NS = 8000            # when it is tried again, after so many sleeps:
    POLL_RETRY = 64
    POLL_SLACK_NS = 20000           # beyond its time: the thread was not running
    PROBE_EAGER = 64                # sleeps until it is tried again whether I/O finishes at once
    WORTH_PINNING = 1024            # requests since the buffers were last given back


cdef void pin_buffers(Queue q) noexcept nogil:
    """Let the engine pin the buffers once it is worth it: an idle disk keeps no memory."""
    cdef int rc
    if q.registered == 0 and q.buffers.touched and q.busy > WORTH_PINNING:
        rc = q.disk.register_buffer(q.buffers.base, <size_t>q.buffers.pages << 12)
        q.registered = 1 if rc >= 0 else -1


cdef void trim_buffers(Queue q) noexcept nogil:
    """Unpin first: pages dropped while pinned would be other pages for us than for the kernel."""
    if q.registered > 0 and q.disk.register_buffer(NULL, 0) < 0:
        return
    q.registered = min(q.registered, 0)
    q.busy = 0
    arena_trim(q.buffers)


cdef void hand_over(Queue q) noexcept nogil:
    """Give the disk what this pass has for it."""
    q.disk.submit(chain_end(&q.ready))
    chain_begin(&q.ready)
    q.unstarted = True


cdef void start(Queue q) noexcept nogil:
    """Let the engine begin what was submitted."""
    q.unstarted = False
    q.disk.enter()


cdef void hear(Queue q) noexcept nogil:
    """Take the event.  The port stays masked until the work is done (XSA-332), and the handle has no other: to ask for
    more would be a system call in vain."""
    if q.evtchn.c_pending() >= 0:
        q.stats.events_in += 1
        q.masked = q.rung = True


cdef void empty_control(Queue q) noexcept nogil:
    cdef uint64_t count
    read(q.control, &count, sizeof(count))      # not blocking; what it says is in q.orders


cdef int64_t patience(Queue q, uint64_t now) noexcept nogil:
    """How long to sleep at most, in nanoseconds; < 0: until something happens."""
    cdef uint64_t until = 0
    if q.nap_until:
        until = q.nap_until
    if q.discards_resting and (until == 0 or q.discard_at < until):
        until = q.discard_at
    if q.held.first != NULL and (until == 0 or q.retry_at < until):
        until = q.retry_at
    if q.kept.count and (until == 0 or q.kept.sweep_at < until):
        until = q.kept.sweep_at
        if q.live == 0 and q.buffers.touched and until > now + <uint64_t>q.idle_ns:
            return q.idle_ns
    if until:
        return <int64_t>(until - now) if until > now else 0
    return q.idle_ns if q.live == 0 and q.buffers.touched else -1


cdef void expire(Queue q, uint64_t before, int64_t timeout) noexcept nogil:
    """Do what was to be done at a time."""
    cdef uint64_t now = now_ns()
    if q.nap_until and now >= q.nap_until:
        q.nap_until = 0
    if q.held.first != NULL and now >= q.retry_at:
        retry_held(q)
    if now >= q.kept.sweep_at:
        kept_sweep(q.kept, now)
    if timeout == q.idle_ns and now - before >= <uint64_t>q.idle_ns and q.live == 0:
        trim_buffers(q)


cdef void sleep(Queue q) noexcept nogil:
    cdef uint64_t before = now_ns()
    cdef int64_t timeout = patience(q, before)
    cdef uint32_t ready = 0
    q.unstarted = False
    if q.disk.sleep(timeout, &ready) < 0:
        usleep(1000)                # never a busy loop, whatever it was
    q.stats.wakeups += 1
    q.stats.submits = q.disk.system_calls()
    q.rests += 1
    if q.rests % PROBE_EAGER == 0:
        q.eager = True
    if ready & (1 << TAG_EVTCHN):
        hear(q)
    if ready & (1 << TAG_CONTROL):
        empty_control(q)
    if timeout >= 0:
        expire(q, before, timeout)


cdef bint ended(Queue q) noexcept nogil:
    """Everything is answered; or the disk is done with it, and what is not answered is not ours to answer any more."""
    return q.stopping and ((q.live == 0 and not q.last_look)
                           or (q.owned == 0 and (q.silence != 0 or q.handing_over)))


cdef bint poll(Queue q, uint64_t start) noexcept nogil:
    """Look for requests and orders as long as it pays; 1: there is something."""
    cdef uint64_t now = start
    cdef int _i
    while now - start < q.poll_window:
        for _i in range(POLL_LOOKS):
            if back_pending(&q.ring) != 0 or load(&q.orders, __ATOMIC_RELAXED):
                return True
            relax()
        now = now_ns()
    if now - start > 2 * q.poll_window + POLL_SLACK_NS:
        q.poll_window = 0           # others had this processor meanwhile: they want it
    return False


cdef bint spin(Queue q) noexcept nogil:
    """Look for requests a little longer, with nothing in flight only: the disk would want this CPU.

    Twice as long next time if that found some, half as long if not; when it has not paid for a while, not at all, and
    now and then it is tried again."""
    if q.poll_ns == 0 or q.live or not may_consume(q):
        return False
    if q.poll_window < POLL_LEAST_NS:
        q.poll_rests += 1
        if q.poll_rests < POLL_RETRY:
            return False
        q.poll_rests, q.poll_window = 0, min(q.poll_ns, <uint64_t>POLL_FIRST_NS)
    if poll(q, now_ns()):
        q.poll_window = min(2 * q.poll_window, q.poll_ns)
        return True
    q.poll_window //= 2
    return False


cdef void rest(Queue q) noexcept nogil:
    """Nothing is left to do: unmask, ask for an event, look once more, sleep."""
    if ended(q) or spin(q):
        return
    if q.masked and not q.nap_until and not q.silence:
        q.masked = False
        q.evtchn.c_unmask(q.port)
    if may_consume(q) and back_final_check(&q.ring):
        if q.unstarted:
            start(q)
        return
    sleep(q)


cdef void prepare_to_stop(Queue q, bint handing_over) noexcept nogil:
    if handing_over:
        q.last_look = False
    elif not q.silence:
        discards_cut(q)
        if not q.stopping:
            look_once_more(q)
    discards_quit(q)
    q.stopping, q.handing_over = True, handing_over


cdef void obey(Queue q) noexcept nogil:
    cdef uint32_t orders = swap(&q.orders, 0, __ATOMIC_SEQ_CST)
    if orders & ORDER_ABANDON:
        # The guest's pages may go any moment: nothing touches them from here on.
        q.silence = SILENT_ABANDONED
        q.release_ring()
        discards_quit(q)
    if orders & ORDER_STOP:
        prepare_to_stop(q, orders & ORDER_HAND_OVER != 0)
    if orders & (ORDER_RESUME | ORDER_STOP) and not q.silence and not q.handing_over:
        retry_all(q)
    if device_failed(q.device) and not q.silence:
        follow_failure(q)


cdef void serve(Queue q) noexcept nogil:
    cdef uint32_t taken, got
    cdef bint started
    while True:
        if load(&q.orders, __ATOMIC_RELAXED):
            obey(q)
        if ended(q):
            return
        taken = intake(q)
        if not chain_empty(&q.ready):
            hand_over(q)
        started = q.unstarted and (q.eager or q.more)
        if started:
            pin_buffers(q)
            start(q)
        got = collect(q)
        if started:
            q.eager = got != 0
        if taken or got:
            q.stats.passes += 1
        if got == 0 and (taken == 0 or q.unstarted):
            rest(q)


cdef void block_signals() noexcept nogil:
    cdef sigset_t all
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, NULL)


def run(Queue q, report):
    """The body of a queue's thread: report(rc) once it is attached (a negative errno: it is not, and ends)."""
    cdef int rc
    with nogil:
        block_signals()
        rc = q.attach()
    report(rc)
    if rc < 0:
        return
    with nogil:
        if q.adopting:
            adopt(q)
        serve(q)
        discards_quit(q)
        q.detach()
        if device_leave(q.device):
            event_post(&q.events, EVENT_STOPPED, 0, 0)
