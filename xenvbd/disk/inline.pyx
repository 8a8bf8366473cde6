"""A queue whose operations are done at once by the submitting thread: the base of memory and null."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from xenvbd.disk.disk cimport Disk, DiskQueue, disk_op
from xenvbd.disk.oplist cimport ops_push, ops_take
from xenvbd.disk.transfer cimport admit
from xenvbd.disk.watcher cimport watcher_add, watcher_init, watcher_wait


cdef class InlineQueue(DiskQueue):
    """Queue of a Disk that needs no kernel."""

    def __cinit__(self, Disk disk not None):
        self.disk = disk
        watcher_init(&self.watched)

    cdef void perform(self, disk_op *op) noexcept nogil:
        """Do an admitted operation and set op.result: the subclass's."""
        op.result = -95     # EOPNOTSUPP

    cdef int watch(self, int fd, uint32_t tag) noexcept nogil:
        return watcher_add(&self.watched, fd, tag)

    cdef void submit(self, disk_op *op) noexcept nogil:
        if admit(self.disk, op):
            self.perform(op)
        ops_push(&self.finished, op)

    cdef int reap(self, disk_op **done, int limit) noexcept nogil:
        return ops_take(&self.finished, done, limit)

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        self.calls += 1
        return min(watcher_wait(&self.watched, 0 if self.finished.first != NULL else timeout_ns, ready), 0)

    cdef uint64_t system_calls(self) noexcept nogil:
        return self.calls
