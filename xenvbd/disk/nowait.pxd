"""Which direction of a file io_uring could only punt to its worker threads, and is better done inline."""
cdef bint inline_reads(int fd, bint is_block) noexcept nogil
cdef bint inline_writes(int fd, bint is_block, bint direct) noexcept nogil
