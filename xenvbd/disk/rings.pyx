"""Where io_urings come from: made as they are needed, or, in a worker that is locked down, kept from before.

A new io_uring is under no restriction, and what it is asked for passes seccomp by, which sees no more than the call
that submits it: sockets, files.  So a worker makes rings before it is locked down, restricts them, and may make no
other.  A ring that was enabled is of the thread that enabled it (SINGLE_ISSUER), so a thread keeps its rings for the
next disk, and does not end with its queue (dataplane.iothread).
"""
from libc.errno cimport EINVAL, EMFILE, ENOSYS
from libc.stdint cimport uint32_t
from libc.string cimport memset

from xenvbd.disk.liburing cimport *
from xenvbd.disk.restrict cimport restrict_ring

cdef extern from * nogil:
    """
    /* Which of the kept ones this thread has, of each size. */
    static __thread int xenvbd_rings_of_thread[2] = {-1, -1};
    """
    enum:
        __ATOMIC_SEQ_CST
    int mine "xenvbd_rings_of_thread"[2]
    bint exchange "__atomic_compare_exchange_n"(uint32_t *p, uint32_t *expected, uint32_t value, bint weak, int order,
                                                int otherwise)
    uint32_t load "__atomic_load_n"(const uint32_t *p, int order)
    void store "__atomic_store_n"(uint32_t *p, uint32_t value, int order)

cdef enum:
    SIZES = 2
    SMALL = 128                 # entries: for rings of up to two pages
    LARGE = 1024                # of up to sixteen
    LARGES = 8                  # with 150 KiB of the kernel's memory each; the others have 40
    MOST = 20
    # A slot's states.
    FREE = 0
    BUSY = 1                    # a queue's
    IDLE = 2                    # a thread's that waits for a queue

EXTRA = 33                      # entries of a ring beside those of its queue: polls, and one to spare


cdef struct slot:
    io_uring ring
    int size                    # 0 or 1
    bint enabled
    bint waited_with            # its thread has no queue, and can be given one
    uint32_t state

cdef slot slots[MOST]
cdef int count = 0
cdef bint sealed = False


cdef int make_ring(io_uring *ring, unsigned entries) noexcept nogil:
    """A ring with what this kernel has of the fast set-ups, not enabled yet.  0 or a negative errno."""
    cdef io_uring_params params
    cdef unsigned setups[3]
    cdef unsigned always = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP
    cdef unsigned need = IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_NODROP
    cdef int i, rc = -ENOSYS
    setups[0] = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG
    setups[1] = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
    setups[2] = 0
    for i in range(3):
        memset(&params, 0, sizeof(params))
        params.flags = setups[i] | always | (IORING_SETUP_SUBMIT_ALL if i < 2 else 0)
        rc = io_uring_queue_init_params(entries, ring, &params)
        if rc != -EINVAL:
            break
    if rc == 0 and ring.features & need != need:
        io_uring_queue_exit(ring)
        return -ENOSYS
    return rc


def unavailable():
    """Why io_uring cannot be used here: an errno (EPERM: forbidden, ENOSYS: too old, EMFILE: none is left), or 0."""
    cdef io_uring ring
    cdef int rc
    if sealed:
        return 0 if left(0) else EMFILE
    rc = make_ring(&ring, 4)
    if rc == 0:
        io_uring_queue_exit(&ring)
    return -rc


def keep():
    """Make the rings that this process may have from now on, and no other; how many there are."""
    global sealed
    sealed = True
    while count < MOST and keep_one(1 if count < LARGES else 0):
        pass
    return count


cdef bint keep_one(int size):
    global count
    cdef slot *s = &slots[count]
    memset(s, 0, sizeof(s[0]))
    s.size = size
    if make_ring(&s.ring, LARGE if size else SMALL) < 0:
        return False
    if restrict_ring(&s.ring, <unsigned char>IOSQE_FIXED_FILE) < 0:
        io_uring_queue_exit(&s.ring)
        return False
    count += 1
    return True


def kept():
    """Whether keep() was called."""
    return sealed


cdef int size_for(unsigned entries) noexcept nogil:
    return 0 if entries <= SMALL else 1


def kind_of(entries):
    """Which kind of thread a queue of so many entries is for; -1: any, for its ring will be made."""
    return size_for(entries + EXTRA) if sealed else -1


def kinds_of_thread():
    """What kinds of queue this thread has a ring for."""
    return [size for size in range(SIZES) if mine[size] >= 0]


def wait_with():
    """This thread can be given another queue now, for its rings: they are left()."""
    cdef int size
    for size in range(SIZES):
        if mine[size] >= 0:
            slots[mine[size]].waited_with = True


def left(entries):
    """How many more queues of so many entries can have a ring."""
    cdef int i
    return sum(1 for i in range(count) if slots[i].size >= size_for(entries + EXTRA) and can_be_had(i))


cdef bint can_be_had(int at) noexcept nogil:
    """Whether nobody has it, or this thread, or one that waits for a queue."""
    cdef uint32_t state = load(&slots[at].state, __ATOMIC_SEQ_CST)
    return state == FREE or (state == IDLE and (slots[at].waited_with or at == mine[slots[at].size]))


cdef int find(int size) noexcept nogil:
    """One that nobody has, now this thread's; -1: there is none."""
    cdef int i
    cdef uint32_t free
    for i in range(count):
        free = FREE
        if slots[i].size == size and exchange(&slots[i].state, &free, BUSY, False, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST):
            mine[size] = i
            return i
    return -1


cdef int ring_take(io_uring *ring, unsigned entries) noexcept nogil:
    """A ring with room for so many entries: ring_origin, or a negative errno."""
    cdef int size, at = -1
    if not sealed:
        return make_ring(ring, entries)
    for size in range(size_for(entries), SIZES):        # its own first, of whatever size: it would keep both
        if at < 0:
            at = mine[size]
    for size in range(size_for(entries), SIZES):
        if at < 0:
            at = find(size)
    if at < 0:
        return -EMFILE
    slots[at].waited_with = False
    store(&slots[at].state, BUSY, __ATOMIC_SEQ_CST)
    ring[0] = slots[at].ring
    return RING_USED if slots[at].enabled else RING_KEPT


cdef void ring_give(io_uring *ring, bint enabled) noexcept nogil:
    """Keep a ring that was kept, for this thread's next queue."""
    cdef int size, at
    for size in range(SIZES):
        at = mine[size]
        if at >= 0 and slots[at].ring.ring_fd == ring.ring_fd:
            slots[at].ring, slots[at].enabled = ring[0], enabled
            store(&slots[at].state, IDLE, __ATOMIC_SEQ_CST)
