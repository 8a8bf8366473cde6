"""A first-in, first-out list of operations, linked through disk_op.next: no allocation."""
from xenvbd.disk.disk cimport disk_op


cdef struct op_list:
    disk_op *first
    disk_op *last


cdef struct op_chain:
    # A chain being built: nothing but what stands in it was stored.
    disk_op *first
    disk_op **tail


cdef inline void chain_begin(op_chain *chain) noexcept nogil:
    chain.tail = &chain.first


cdef inline bint chain_empty(const op_chain *chain) noexcept nogil:
    return chain.tail == &chain.first


cdef inline void chain_add(op_chain *chain, disk_op *op) noexcept nogil:
    chain.tail[0] = op
    chain.tail = &op.next


cdef inline disk_op *chain_end(op_chain *chain) noexcept nogil:
    """The chain, or NULL if nothing was added."""
    chain.tail[0] = NULL
    return chain.first


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


cdef inline disk_op *ops_take(op_list *ops) noexcept nogil:
    """All of them, as a chain; the list is empty then."""
    cdef disk_op *chain = ops.first
    ops.first = NULL
    return chain
