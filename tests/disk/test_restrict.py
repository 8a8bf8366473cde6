"""What a restricted ring refuses: each operation that is not the engine's, tried on a ring like the engine's."""
import ctypes
import errno
import os

import pytest

from xenvbd.disk import restrict

SYS_io_uring_enter, SYS_io_uring_register = 426, 427
R_DISABLED = 1 << 6
FIXED_FILE = 1
READ, WRITE, READV, WRITEV, READ_FIXED, WRITE_FIXED, FSYNC, FALLOCATE, POLL_ADD, POLL_REMOVE = \
    22, 23, 1, 2, 4, 5, 3, 17, 6, 7
ALLOWED = {READ, WRITE, READV, WRITEV, READ_FIXED, WRITE_FIXED, FSYNC, FALLOCATE, POLL_ADD, POLL_REMOVE, 60, 61}
NAMES = {0: "nop", 9: "sendmsg", 10: "recvmsg", 13: "accept", 16: "connect", 18: "openat", 28: "openat2",
         29: "epoll_ctl", 35: "renameat", 36: "unlinkat", 37: "mkdirat", 40: "msg_ring", 45: "socket", 46: "uring_cmd"}

uring = ctypes.CDLL("liburing.so.2", use_errno=True)
libc = ctypes.CDLL(None, use_errno=True)
ctypes.pythonapi.PyCapsule_GetName.restype = ctypes.c_char_p
ctypes.pythonapi.PyCapsule_GetName.argtypes = [ctypes.py_object]
ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Queue(ctypes.Structure):
    """The beginning of liburing's io_uring_sq and io_uring_cq."""
    _fields_ = [(name, ctypes.POINTER(ctypes.c_uint)) for name in ("head", "tail", "mask", "entries", "flags", "lost")]


class Ring(ctypes.Structure):
    """liburing 2's struct io_uring, as far as it is needed here."""
    _fields_ = [("sq", Queue), ("array", ctypes.POINTER(ctypes.c_uint)), ("sqes", ctypes.c_void_p),
                ("sq_rest", ctypes.c_char * 40), ("cq", Queue), ("cqes", ctypes.c_void_p),
                ("cq_rest", ctypes.c_char * 32), ("flags", ctypes.c_uint), ("fd", ctypes.c_int),
                ("more", ctypes.c_char * 64)]


def function(name, *arguments):
    """A cdef function of restrict.pyx."""
    capsule = restrict.__pyx_capi__[name]
    address = ctypes.pythonapi.PyCapsule_GetPointer(capsule, ctypes.pythonapi.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(address)


@pytest.fixture
def ring(tmp_path):
    """A ring as UringQueue.attach() makes it, with one registered file."""
    ring, params = Ring(), ctypes.create_string_buffer(120)
    ctypes.c_uint.from_buffer(params, 8).value = R_DISABLED
    assert uring.io_uring_queue_init_params(8, ctypes.byref(ring), params) == 0
    (tmp_path / "file").write_bytes(bytes(4096))
    file = os.open(tmp_path / "file", os.O_RDWR)
    assert uring.io_uring_register_files(ctypes.byref(ring), ctypes.byref(ctypes.c_int(file)), 1) == 0
    assert function("restrict_ring", ctypes.c_void_p, ctypes.c_uint8)(ctypes.addressof(ring), FIXED_FILE) == 0
    assert function("enable_ring", ctypes.c_void_p)(ctypes.addressof(ring)) == 0
    yield ring
    uring.io_uring_queue_exit(ctypes.byref(ring))
    os.close(file)


def attempt(ring, opcode, flags=FIXED_FILE, fd=0) -> int:
    """Put one SQE on the ring; what came of it."""
    tail = ring.sq.tail[0]
    at = tail & ring.sq.mask[0]
    sqe = (ctypes.c_uint8 * 64).from_address(ring.sqes + 64 * at)
    ctypes.memset(sqe, 0, 64)
    sqe[0], sqe[1] = opcode, flags
    ctypes.c_int.from_buffer(sqe, 4).value = fd
    if ring.array:                              # liburing 2.6 does without, where the kernel does
        ring.array[at] = at
    ring.sq.tail[0] = tail + 1
    assert libc.syscall(SYS_io_uring_enter, ring.fd, 1, 1, 1, None, 0) == 1
    head = ring.cq.head[0]
    result = ctypes.c_int.from_address(ring.cqes + 16 * (head & ring.cq.mask[0]) + 8).value
    ring.cq.head[0] = head + 1
    return result


def test_what_the_engine_does_is_allowed(ring) -> None:
    assert attempt(ring, FSYNC) == 0
    assert attempt(ring, READ) == 0


@pytest.mark.parametrize("opcode", sorted(set(range(70)) - ALLOWED), ids=lambda opcode: NAMES.get(opcode, str(opcode)))
def test_nothing_else_is(ring, opcode) -> None:
    unknown = () if opcode in NAMES else (-errno.EINVAL,)       # what this kernel does not have
    assert attempt(ring, opcode) in (-errno.EACCES, *unknown)


@pytest.mark.parametrize("opcode", [READ, WRITE, FSYNC])
def test_a_file_that_is_not_registered_cannot_be_reached(ring, opcode) -> None:
    assert attempt(ring, opcode, flags=0, fd=1) == -errno.EACCES


@pytest.mark.parametrize("what, name", [(4, "eventfd"), (9, "personality"), (11, "restrictions"), (24, "sync cancel")])
def test_other_registrations_are_refused(ring, what, name) -> None:
    argument = ctypes.create_string_buffer(256)
    assert libc.syscall(SYS_io_uring_register, ring.fd, what, argument, 1) == -1
    assert ctypes.get_errno() in (errno.EACCES, errno.EBADFD, errno.EINVAL)
