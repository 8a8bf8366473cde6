"""The simulated machine (include/xenvbd/machine.h) in Python: make it, join it, look at it, break it."""
import errno
import os

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.mman cimport munmap
from posix.types cimport pid_t

from xenvbd.hv.ops cimport Hypervisor, xenvbd_hypervisor

from xenvbd.errors import HypervisorError, check
from xenvbd.hv.info import GrantInfo, PortInfo

cdef extern from "xenvbd/machine.h" nogil:
    enum:
        XENVBD_MACHINE_NO_DOMAIN
        XENVBD_PORT_FREE
        XENVBD_PORT_UNBOUND
    struct xenvbd_machine:
        pass
    struct xenvbd_port_info:
        int state
        uint32_t remote_domid
        uint32_t remote_port
        int pending
        int masked
    struct xenvbd_grant_info:
        int allocated
        int permitted
        int readonly
        uint32_t remote_domid
        uint32_t frame
    struct xenvbd_mapping_info:
        pid_t pid
        uint32_t gref
    int xenvbd_machine_create(const char *dir)
    int xenvbd_machine_open(const char *dir, int domid, xenvbd_machine **machine)
    void xenvbd_machine_close(xenvbd_machine *machine)
    void xenvbd_machine_hypervisor(xenvbd_machine *machine, xenvbd_hypervisor *out)
    int xenvbd_machine_add_domain(xenvbd_machine *machine, int domid)
    int xenvbd_machine_remove_domain(xenvbd_machine *machine, int domid)
    int xenvbd_machine_next_domain(xenvbd_machine *machine, int after)
    void xenvbd_machine_reap(xenvbd_machine *machine)
    int xenvbd_machine_port(xenvbd_machine *machine, int domid, uint32_t port, xenvbd_port_info *info)
    int xenvbd_machine_last_port(xenvbd_machine *machine, int domid)
    int xenvbd_machine_grant_info(xenvbd_machine *machine, int domid, uint32_t gref, xenvbd_grant_info *info)
    int xenvbd_machine_last_gref(xenvbd_machine *machine, int domid)
    int xenvbd_machine_mappings(xenvbd_machine *machine, int domid, xenvbd_mapping_info *info, uint32_t limit)
    int xenvbd_machine_set_grant(xenvbd_machine *machine, int domid, uint32_t gref,
                                 const xenvbd_grant_info *info)
    int xenvbd_machine_memory(xenvbd_machine *machine, int domid, uint32_t frame, uint32_t count,
                              void **address)
    int xenvbd_machine_inject(xenvbd_machine *machine, int op, uint32_t after, int status, uint32_t count,
                              int domid)
    void xenvbd_machine_clear_faults(xenvbd_machine *machine)
    uint64_t xenvbd_machine_fault_hits(xenvbd_machine *machine)

cdef enum:
    PAGE = 4096

# In the order of enum xenvbd_fault_op.
FAULT_OPS = ("open", "bind", "unbind", "notify", "notify-lost", "unmask", "map", "unmap", "copy", "copy-lie",
             "copy-call", "share", "unshare")


cdef class SimHypervisor(Hypervisor):
    """A simulated machine as one of its domains sees it.  The process leaves it when this object goes."""
    cdef xenvbd_machine *_machine

    def __dealloc__(self):
        xenvbd_machine_close(self._machine)


def join(directory, int domid):
    """The machine in a directory as domain domid sees it.

    Raises HypervisorError (ENOENT: no machine, ESRCH: no such domain)."""
    cdef SimHypervisor hypervisor = SimHypervisor.__new__(SimHypervisor)
    directory = os.path.abspath(os.fspath(directory))
    check(xenvbd_machine_open(os.fsencode(directory), domid, &hypervisor._machine),
          f"join the simulated machine as domain {domid}", path=directory)
    xenvbd_machine_hypervisor(hypervisor._machine, &hypervisor.c)
    hypervisor.spec = f"sim:{directory}"
    hypervisor.domid = domid
    hypervisor.store_path = os.path.join(directory, f"store.{domid}")
    return hypervisor


cdef class Memory:
    """Pages of a domain's own memory, as its kernel sees them: a buffer.  Not counted as a mapping."""
    cdef void *_address
    cdef Py_ssize_t _length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self._address, self._length, False, flags)

    def __dealloc__(self):
        if self._address:
            munmap(self._address, self._length)


cdef class Machine:
    """A simulated machine seen from outside, as a toolstack and a test do; it is no domain.

    dir is its directory.  Every method raises HypervisorError: ESRCH for a domain that is not there."""
    cdef xenvbd_machine *_machine
    cdef readonly str dir

    def __init__(self):
        raise TypeError("use Machine.create() or Machine.open()")

    def __dealloc__(self):
        xenvbd_machine_close(self._machine)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self) -> None:
        """Let go of it; the machine and its domains stay.  Doing it again does nothing."""
        xenvbd_machine_close(self._machine)
        self._machine = NULL

    cdef xenvbd_machine *_open(self) except NULL:
        if self._machine is NULL:
            raise HypervisorError(errno.EBADF, "this machine object is closed", path=self.dir)
        return self._machine

    @staticmethod
    def create(directory) -> Machine:
        """Make a machine, with domain 0, in a directory on tmpfs (made if missing).  EEXIST: there is one."""
        directory = os.path.abspath(os.fspath(directory))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        check(xenvbd_machine_create(os.fsencode(directory)), "create a simulated machine", path=directory)
        return Machine.open(directory)

    @staticmethod
    def open(directory) -> Machine:
        """Look at an existing machine."""
        cdef Machine machine = Machine.__new__(Machine)
        machine.dir = os.path.abspath(os.fspath(directory))
        check(xenvbd_machine_open(os.fsencode(machine.dir), XENVBD_MACHINE_NO_DOMAIN, &machine._machine),
              "open the simulated machine", path=machine.dir)
        return machine

    def join(self, int domid) -> SimHypervisor:
        """The machine as that domain sees it."""
        return join(self.dir, domid)

    # -- Domains

    def add_domain(self, int domid) -> None:
        """A new domain, with no memory in use.  EEXIST."""
        check(xenvbd_machine_add_domain(self._open(), domid), f"add domain {domid}")

    def remove_domain(self, int domid) -> None:
        """Its ports are closed, its grants revoked, its memory gone; a page that is mapped stays so."""
        check(xenvbd_machine_remove_domain(self._open(), domid), f"remove domain {domid}")

    def domains(self) -> list[int]:
        """The numbers of the domains there are, ascending."""
        domids = []
        cdef int domid = xenvbd_machine_next_domain(self._open(), -1)
        while domid >= 0:
            domids.append(domid)
            domid = xenvbd_machine_next_domain(self._machine, domid)
        return domids

    # -- Looking

    def ports(self, int domid) -> list[PortInfo]:
        """The ports in use, those of dead processes closed."""
        cdef xenvbd_port_info info
        cdef int last, port
        ports = []
        xenvbd_machine_reap(self._open())
        last = check(xenvbd_machine_last_port(self._machine, domid), f"ports of domain {domid}")
        for port in range(1, last + 1):
            check(xenvbd_machine_port(self._machine, domid, port, &info), f"port {port} of domain {domid}")
            if info.state != XENVBD_PORT_FREE:
                state = "unbound" if info.state == XENVBD_PORT_UNBOUND else "interdomain"
                ports.append(PortInfo(port, state, info.remote_domid, info.remote_port, bool(info.pending),
                                      bool(info.masked)))
        return ports

    def grants(self, int domid) -> list[GrantInfo]:
        """The entries in use of a domain's grant table."""
        cdef int gref, last
        last = check(xenvbd_machine_last_gref(self._open(), domid), f"grants of domain {domid}")
        cdef xenvbd_grant_info info
        grants = []
        for gref in range(last + 1):
            info = self._grant(domid, gref)
            if info.allocated:
                grants.append(GrantInfo(gref, bool(info.permitted), bool(info.readonly), info.remote_domid,
                                        info.frame))
        return grants

    def mappings(self, int domid) -> list[tuple[int, int]]:
        """(pid, gref) of every page of that domain, also of one removed, that a living process has mapped."""
        cdef int i, count = xenvbd_machine_mappings(self._open(), domid, NULL, 0)
        cdef int limit = count + 64         # some may come meanwhile
        cdef xenvbd_mapping_info *info = <xenvbd_mapping_info *>malloc(limit * sizeof(xenvbd_mapping_info))
        if info is NULL:
            raise MemoryError
        count = min(limit, xenvbd_machine_mappings(self._machine, domid, info, limit))
        mappings = [(info[i].pid, info[i].gref) for i in range(count)]
        free(info)
        return mappings

    # -- What a guest's kernel may do to its own grants, sane or hostile

    cdef xenvbd_grant_info _grant(self, int domid, uint32_t gref) except *:
        cdef xenvbd_grant_info info
        check(xenvbd_machine_grant_info(self._open(), domid, gref, &info), f"gref {gref} of domain {domid}")
        return info

    cdef _set(self, int domid, uint32_t gref, xenvbd_grant_info info):
        check(xenvbd_machine_set_grant(self._open(), domid, gref, &info),
              f"set gref {gref} of domain {domid}")

    def grant(self, int domid, uint32_t gref, uint32_t remote_domid, *, bint readonly=False,
              frame=None) -> None:
        """Write an entry: gref (any, also the reserved ones below 8) of that domain gives remote_domid access
        to a page, by default page number gref; one beyond the memory is GNTST_bad_page to who uses it."""
        cdef xenvbd_grant_info info
        info.allocated = info.permitted = 1
        info.readonly = readonly
        info.remote_domid = remote_domid
        info.frame = gref if frame is None else frame
        self._set(domid, gref, info)

    def revoke(self, int domid, uint32_t gref) -> None:
        """Take access back; the page stays allocated, and mapped where it is mapped."""
        cdef xenvbd_grant_info info = self._grant(domid, gref)
        info.permitted = 0
        self._set(domid, gref, info)

    def set_readonly(self, int domid, uint32_t gref, bint readonly=True) -> None:
        """Allow, or no longer allow, new mappings and copies to write."""
        cdef xenvbd_grant_info info = self._grant(domid, gref)
        info.readonly = readonly
        self._set(domid, gref, info)

    def memory(self, int domid, uint32_t frame, uint32_t count=1) -> memoryview:
        """Pages of that domain's memory, writable.  share() grants page n as gref n."""
        cdef Memory memory = Memory.__new__(Memory)
        cdef void *address = NULL
        check(xenvbd_machine_memory(self._open(), domid, frame, count, &address), f"memory of domain {domid}")
        memory._address = address
        memory._length = <Py_ssize_t>count * PAGE
        return memoryview(memory)

    # -- Faults

    def inject(self, op, uint32_t after, int status, uint32_t count=1, *, int domid=-1) -> None:
        """In every process: let `after` uses of op (FAULT_OPS) pass, then make count fail (0: all from then).

        status is a negative errno, or for "copy" a GNTST_*; "copy" and "copy-lie" count segments.
        "notify-lost" and "copy-lie" say success and do nothing.  domid: only uses by that domain."""
        if op not in FAULT_OPS:
            raise ValueError(f"{op!r} is none of {', '.join(FAULT_OPS)}")
        check(xenvbd_machine_inject(self._open(), FAULT_OPS.index(op), after, status, count, domid),
              f"inject a fault of {op}")

    def clear_faults(self) -> None:
        """Disarm all faults."""
        xenvbd_machine_clear_faults(self._open())

    @property
    def fault_hits(self) -> int:
        """How many faults have fired since the machine was made."""
        return xenvbd_machine_fault_hits(self._open())
