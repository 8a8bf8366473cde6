"""The system calls by which a process gives up what it may do: capabilities, dumps, the file system and network.

All are one-way, and each is for the calling thread alone (its later threads inherit them), so they come before any
other thread.
"""
import errno
import os

from libc.errno cimport errno as c_errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_CAPBSET_READ, PR_CAP_AMBIENT
    int PR_CAP_AMBIENT_CLEAR_ALL
    int prctl(int option, ...)

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW, RTLD_NODELETE
    void *dlopen(const char *name, int flags)

cdef extern from "<linux/capability.h>" nogil:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    #define set_capabilities(header, data) syscall(SYS_capset, (header), (data))

    /* linux/landlock.h as of ABI 7: the headers of an older kernel lack the later fields. */
    struct landlock_rules { uint64_t handled_access_fs, handled_access_net, scoped; };
    struct landlock_beneath { uint64_t allowed_access; int32_t parent_fd; } __attribute__((packed));
    #define landlock_create(attr, size, flags) syscall(444, (attr), (size_t)(size), (uint32_t)(flags))
    #define landlock_add(ruleset, rule) syscall(445, (ruleset), 1 /* PATH_BENEATH */, (rule), 0u)
    #define landlock_restrict(ruleset) syscall(446, (ruleset), 0u)
    """
    struct __user_cap_header_struct:
        uint32_t version
        int pid
    struct __user_cap_data_struct:
        uint32_t effective, permitted, inheritable
    uint32_t _LINUX_CAPABILITY_VERSION_3
    long set_capabilities(__user_cap_header_struct *header, __user_cap_data_struct *data)
    struct landlock_rules:
        uint64_t handled_access_fs
        uint64_t handled_access_net
        uint64_t scoped
    struct landlock_beneath:
        uint64_t allowed_access
        int32_t parent_fd
    long landlock_create(landlock_rules *rules, size_t size, uint32_t flags)
    long landlock_add(int ruleset, landlock_beneath *rule)
    long landlock_restrict(int ruleset)

cdef enum:
    # LANDLOCK_ACCESS_FS_*, as bits
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    REMOVE_FILE = 1 << 5
    MAKE_FIFO = 1 << 10
    IOCTL_DEV = 1 << 15

# How many of LANDLOCK_ACCESS_FS_* each ABI has.
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


cdef check(long rc, str what):
    if rc < 0:
        raise OSError(c_errno, f"{what}: {os.strerror(c_errno)}")
    return rc


def no_new_privileges():
    """Nothing that is executed from here on gains anything.  Raises OSError."""
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def not_dumpable():
    """No core, no ptrace by this user's other processes.  Raises OSError."""
    check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")


def drop_bounding_set():
    """No capability can ever be had again, as far as this process may decide that."""
    cdef int capability = 0
    while prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def drop_capabilities():
    """Have none.  Raises OSError."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    header.version, header.pid = _LINUX_CAPABILITY_VERSION_3, 0
    memset(data, 0, sizeof(data))
    check(set_capabilities(&header, data), "capset")


def load_unwinder():
    """What glibc loads when a thread is cancelled or exits early: it could not later, and would abort."""
    dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_NODELETE)


def landlock_abi():
    """The version of Landlock that this kernel has; 0: none, or not switched on."""
    return max(0, landlock_create(NULL, 0, 1))


def landlock(places):
    """Nothing of the file system, no TCP, no signals or abstract sockets to others, but for places: (path, access).

    access: "rw" opens what is there, "m" makes FIFOs in a directory and removes files.  The ABI.  Raises OSError."""
    cdef landlock_rules rules
    cdef int abi = landlock_abi(), ruleset
    if abi == 0:
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock")
    memset(&rules, 0, sizeof(rules))
    rules.handled_access_fs = (<uint64_t>1 << <int>RIGHTS[min(abi, 5)]) - 1
    rules.handled_access_net = 3 if abi >= 4 else 0
    rules.scoped = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = check(landlock_create(&rules, size, 0), "landlock_create_ruleset")
    try:
        for path, access in places:
            allow(ruleset, path, access, rules.handled_access_fs)
        check(landlock_restrict(ruleset), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return abi


cdef allow(int ruleset, path, access, uint64_t handled):
    cdef landlock_beneath rule
    rule.allowed_access = READ_FILE | WRITE_FILE | IOCTL_DEV
    if "m" in access:
        rule.allowed_access |= MAKE_FIFO | REMOVE_FILE
    rule.allowed_access &= handled
    rule.parent_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        check(landlock_add(ruleset, &rule), f"landlock_add_rule {path}")
    finally:
        os.close(rule.parent_fd)
