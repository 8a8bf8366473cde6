"""A seccomp filter from a list of names, through libseccomp, which knows the numbers of each architecture."""
import errno
import os

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<seccomp.h>" nogil:
    ctypedef void *scmp_filter_ctx
    enum scmp_filter_attr:
        SCMP_FLTATR_CTL_NNP
        SCMP_FLTATR_CTL_TSYNC
    enum scmp_compare:
        SCMP_CMP_EQ
        SCMP_CMP_MASKED_EQ
    struct scmp_arg_cmp:
        unsigned arg
        scmp_compare op
        uint64_t datum_a
        uint64_t datum_b
    uint32_t SCMP_ACT_ALLOW
    uint32_t SCMP_ACT_ERRNO(int number)
    int __NR_SCMP_ERROR
    scmp_filter_ctx seccomp_init(uint32_t action)
    void seccomp_release(scmp_filter_ctx context)
    int seccomp_attr_set(scmp_filter_ctx context, scmp_filter_attr attribute, uint32_t value)
    int seccomp_syscall_resolve_name(const char *name)
    int seccomp_rule_add_array(scmp_filter_ctx context, uint32_t action, int number, unsigned count,
                               const scmp_arg_cmp *conditions)
    int seccomp_load(scmp_filter_ctx context)


cdef check(int rc, str what):
    if rc < 0:
        raise OSError(-rc, f"{what}: {os.strerror(-rc)}")


cdef add(scmp_filter_ctx context, uint32_t action, str name, conditions):
    """One rule.  A name that this architecture does not have needs none."""
    cdef scmp_arg_cmp found[6]
    cdef int number = seccomp_syscall_resolve_name(name.encode())
    cdef unsigned count = 0
    if number == __NR_SCMP_ERROR or number < 0:
        return
    for argument, mask, value in conditions:
        found[count].arg, found[count].op = argument, SCMP_CMP_MASKED_EQ
        found[count].datum_a, found[count].datum_b = mask, value
        count += 1
    check(seccomp_rule_add_array(context, action, number, count, found), f"seccomp: {name}")


def number(str name):
    """Of a system call, on this architecture; None: it has none of that name."""
    cdef int found = seccomp_syscall_resolve_name(name.encode())
    return found if found >= 0 else None


def load(rules, absent):
    """Allow what rules say, for all threads: (name, ((argument, mask, value), ...)); several of a name: either.
    All else fails with EPERM, and what is in absent with ENOSYS, as if the kernel were older.  Raises OSError."""
    cdef scmp_filter_ctx context = seccomp_init(SCMP_ACT_ERRNO(errno.EPERM))
    if context == NULL:
        raise OSError(errno.ENOMEM, "seccomp: no filter can be made")
    try:
        check(seccomp_attr_set(context, SCMP_FLTATR_CTL_TSYNC, 1), "seccomp: all threads")
        for name, conditions in rules:
            add(context, SCMP_ACT_ALLOW, name, conditions)
        for name in absent:
            add(context, SCMP_ACT_ERRNO(errno.ENOSYS), name, ())
        check(seccomp_load(context), "seccomp")
    finally:
        seccomp_release(context)
