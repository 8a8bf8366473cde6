"""A queue whose operations are done at once by the submitting thread: the base of memory and null."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from xenvbd.disk.disk cimport Disk, DiskQueue, disk_op
from xenvbd.disk.oplist cimport op_list, ops_append, ops_take
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

    cdef void submit(self, disk_op *chain) noexcept nogil:
        cdef op_list done
        done.first = done.last = chain
        while chain != NULL:
            if admit(self.disk, chain):
                self.perform(chain)
            done.last, chain = chain, chain.next
        ops_append(&self.finished, &done)

    cdef disk_op *reap(self) noexcept nogil:
        return ops_take(&self.finished)

    cdef int sleep(self, int64_t timeout_ns, uint32_t *ready) noexcept nogil:
        self.calls += 1
        return min(watcher_wait(&self.watched, 0 if self.finished.first != NULL else timeout_ns, ready), 0)

    cdef uint64_t system_calls(self) noexcept nogil:
        return self.calls
