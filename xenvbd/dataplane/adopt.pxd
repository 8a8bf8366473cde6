"""Going on with a ring that an earlier worker left: killed, or told to hand over."""
from xenvbd.dataplane.queue cimport Queue

# In the I/O thread, before its first pass.
cdef void adopt(Queue q) noexcept nogil
