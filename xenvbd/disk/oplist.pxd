"""A first-in, first-out list of operations, linked through disk_op.next: no allocation."""
from xenvbd.disk.disk cimport disk_op


cdef struct op_list:
    disk_op *first
    disk_op *last


cdef inline void ops_push(op_list *ops, disk_op *op) noexcept nogil:
    op.next = NULL
    if ops.first == NULL:
        ops.first = op
    else:
        ops.last.next = op
    ops.last = op


cdef inline disk_op *ops_pop(op_list *ops) noexcept nogil:
    """The oldest operation, or NULL."""
    cdef disk_op *op = ops.first
    if op != NULL:
        ops.first = op.next
    return op


cdef inline void ops_append(op_list *ops, op_list *more) noexcept nogil:
    """Move all of more behind ops."""
    if more.first == NULL:
        return
    if ops.first == NULL:
        ops.first = more.first
    else:
        ops.last.next = more.first
    ops.last = more.last
    more.first = NULL


cdef inline int ops_take(op_list *ops, disk_op **into, int limit) noexcept nogil:
    """Pop at most limit operations into an array; their number."""
    cdef int n = 0
    while n < limit and ops.first != NULL:
        into[n] = ops_pop(ops)
        n += 1
    return n
