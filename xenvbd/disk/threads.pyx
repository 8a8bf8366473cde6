"""The threads engine: a small pool of threads a queue, for hosts that have no io_uring or forbid it."""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from xenvbd.disk.atomics cimport add32
from xenvbd.disk.disk cimport DISK_DISCARD, DiskQueue, disk_op
from xenvbd.disk.filedisk cimport FileDisk
from xenvbd.disk.oplist cimport op_list, ops_append, ops_push, ops_take
from xenvbd.disk.transfer cimport DISCARDS_IN_FLIGHT, admit, perform
from xenvbd.disk.watcher cimport WATCH_OWN, watcher, watcher_add, watcher_init, watcher_wait

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, void *(*start)(void *) noexcept nogil,
                       void *argument)
    int pthread_join(pthread_t thread, void **result)
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t *set)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)

cdef extern from "sys/eventfd.h" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned initial, int flags)

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void *into, size_t length)
    ssize_t write(int fd, const void *source, size_t length)
    int close(int fd)

cdef enum:
    MOST_THREADS = 16


cdef struct pool:
    # What the threads of a queue share; everything below the mutex is guarded by it.
    int fd
    int wakeup              # eventfd: an operation finished while the I/O thread slept
    int threads
    pthread_t thread[16]
    pthread_mutex_t mutex
    pthread_cond_t work
    op_list waiting
    op_list finished
    int discards            # being done
    bint asleep             # the I/O thread is in sleep(), or about to be
    bint stop
    uint64_t calls


cdef disk_op *take_work(pool *self) noexcept nogil:
    """The oldest waiting operation, but no more than a few discards at once.  The mutex is held."""
    cdef disk_op *before = NULL
    cdef disk_op *op = self.waiting.first
    while op != NULL and op.opcode == DISK_DISCARD and self.discards >= DISCARDS_IN_FLIGHT:
        before = op
        op = op.next
    if op == NULL:
        return NULL
    if before == NULL:
        self.waiting.first = op.next
    else:
        before.next = op.next
    if self.waiting.last == op:
        self.waiting.last = before
    self.discards += op.opcode == DISK_DISCARD
    return op


cdef void finish(pool *self, disk_op *op, int calls) noexcept nogil:
    """Hand an operation back; wake the I/O thread if nobody has yet.  The mutex is held."""
    cdef uint64_t one = 1
    if op.opcode == DISK_DISCARD:
        self.discards -= 1
        pthread_cond_signal(&self.work)     # one that was passed over may go now
    self.calls += <uint64_t>calls
    ops_push(&self.finished, op)
    if self.asleep:
        self.asleep = False
        self.calls += 1
        write(self.wakeup, &one, sizeof(one))


cdef void *work(void *argument) noexcept nogil:
    """A thread of the pool: do operations until told to stop."""
    cdef pool *self = <pool *>argument
    cdef disk_op *op
    cdef int calls
    pthread_mutex_lock(&self.mutex)
    while True:
        op = take_work(self)
        if op != NULL:
            pthread_mutex_unlock(&self.mutex)
            calls = perform(self.fd, op)
            pthread_mutex_lock(&self.mutex)
            finish(self, op, calls)
        elif self.stop:
            break
        else:
            pthread_cond_wait(&self.work, &self.mutex)
    pthread_mutex_unlock(&self.mutex)
    return NULL


cdef int start_threads(pool *self, int count) noexcept nogil:
    """Signals stay with Python's threads.  0 or a negative errno; fewer threads than asked for will do."""
    cdef sigset_t all, before
    cdef int rc = 0
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    while self.threads < count and rc == 0:
        rc = pthread_create(&self.thread[self.threads], NULL, work, self)
        self.threads += rc == 0
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return 0 if self.threads > 0 else -rc


cdef class ThreadsDisk(FileDisk):
    """An image or block device; each queue has its own pool of threads (1 to 16)."""
    cdef readonly int threads

    def __cinit__(self, *args, int threads=6, **options):
        self.engine = "threads"
        self.threads = min(max(threads, 1), MOST_THREADS)

    cpdef DiskQueue queue(self, unsigned depth):
        return ThreadsQueue(self)


@cython.no_gc_clear         # detach() needs the disk, whoever calls it last
cdef class ThreadsQueue(DiskQueue):
    """submit() gathers, enter() hands the lot over under one lock, sleep() waits for an eventfd."""
    cdef ThreadsDisk disk
    cdef pool pool
    cdef op_list submitted
    cdef watcher watched
    cdef uint64_t calls

    def __cinit__(self, ThreadsDisk disk not None):
        self.disk = disk
        self.pool.wakeup = -1
        watcher_init(&self.watched)

    cdef int attach(self) noexcept nogil:
        cdef int rc
        self.pool.fd = self.disk.fd
        self.pool.wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.pool.wakeup < 0:
            return -errno
        self.watched.fds[WATCH_OWN].fd = self.pool.wakeup
        pthread_mutex_init(&self.pool.mutex, NULL)
        pthread_cond_init(&self.pool.work, NULL)
        add32(&self.disk.attached, 1)
        rc = start_threads(&self.pool, self.disk.threads)
        if rc < 0:
            self.detach()
        return rc

    cdef void detach(self) noexcept nogil:
        cdef int i
        if self.pool.wakeup < 0:
            return
        pthread_mutex_lock(&self.pool.mutex)
        self.pool.stop = True
        pthread_cond_broadcast(&self.pool.work)
        pthread_mutex_unlock(&self.pool.mutex)
        for i in range(self.pool.threads):
            pthread_join(self.pool.thread[i], NULL)
        self.pool.threads, self.pool.stop = 0, False
        pthread_cond_destroy(&self.pool.work)
        pthread_mutex_destroy(&self.pool.mutex)
        close(self.pool.wakeup)
        self.pool.wakeup = -1
        add32(&self.disk.attached, -1)

    cdef int watch(self, int fd, uint32_t tag) noexcept nogil:
        return watcher_add(&self.watched, fd, tag)

    cdef void submit(self, disk_op *chain) noexcept nogil:
        cdef disk_op *op
        while chain != NULL:
            op, chain = chain, chain.next
            if admit(self.disk, op):
                ops_push(&self.submitted, op)
                continue
            pthread_mutex_lock(&self.pool.mutex)
            ops_push(&self.pool.finished, op)
            pthread_mutex_unlock(&self.pool.mutex)

    cdef int enter(self) noexcept nogil:
        cdef bint several = self.submitted.first != self.submitted.last
        if self.submitted.first == NULL:
            return 0
        pthread_mutex_lock(&self.pool.mutex)
        ops_append(&self.pool.waiting, &self.submitted)
        pthread_mutex_unlock(&self.pool.mutex)
        self.calls += 1
        if several:
            pthread_cond_broadcast(&self.pool.work)
        else:
            pthread_cond_signal(&self.pool.work)
        return 0

    cdef disk_op *reap(self) noexcept nogil:
        cdef disk_op *chain
        pthread_mutex_lock(&self.pool.mutex)
        chain = ops_take(&self.pool.finished)
        pthread_mutex_unlock(&self.pool.mutex)
        return chain

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        cdef uint64_t count
        cdef int rc
        self.enter()
        pthread_mutex_lock(&self.pool.mutex)
        self.pool.asleep = self.pool.finished.first == NULL
        if not self.pool.asleep:
            timeout_ns = 0
        pthread_mutex_unlock(&self.pool.mutex)
        self.calls += 1
        rc = watcher_wait(&self.watched, timeout_ns, ready)
        if rc > 0:
            self.calls += 1
            read(self.pool.wakeup, &count, sizeof(count))
        pthread_mutex_lock(&self.pool.mutex)
        self.pool.asleep = False
        pthread_mutex_unlock(&self.pool.mutex)
        return min(rc, 0)

    cdef uint64_t system_calls(self) noexcept nogil:
        cdef uint64_t calls
        pthread_mutex_lock(&self.pool.mutex)
        calls = self.calls + self.pool.calls
        pthread_mutex_unlock(&self.pool.mutex)
        return calls
