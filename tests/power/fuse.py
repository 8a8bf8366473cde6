"""A file that records what the kernel writes to it and when it syncs it: FUSE's protocol, as far as one file needs it.

    python fuse.py FILE SIZE RECORD    mounts itself over FILE, says "ready", and ends when it is unmounted

The record has for each write and each sync, when it is done: OPERATION, then a write's data.  Needs root."""
import ctypes
import os
import struct
import sys
import time

OPERATION = struct.Struct("=4Q")            # kind, offset, length, CLOCK_MONOTONIC in nanoseconds
WRITE, SYNC = 1, 2

# linux/fuse.h
HEADER, REPLY = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=QI4x6Q10I")
FORGET, GETATTR, SETATTR, OPEN, READ, PUT, RELEASE, FSYNC, FLUSH, INIT = 2, 3, 4, 14, 15, 16, 18, 20, 25, 26
INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42
MAX_WRITE = 128 << 10
ENOSYS = 38


class File:
    def __init__(self, path, size, record):
        self.content = bytearray(size)
        self.record = open(record, "ab", buffering=0)       # noqa: SIM115
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=100600,user_id=0,group_id=0,allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"xenvbd-power", path.encode(), b"fuse", 0, options) < 0:
            raise OSError(ctypes.get_errno(), "mount")

    def run(self):
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError:                 # ENODEV: it was unmounted
                return
            _, operation, unique, *_ = HEADER.unpack_from(request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer = self.answer(operation, memoryview(request)[HEADER.size:])
            error, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
            os.write(self.device, REPLY.pack(REPLY.size + len(body), error, unique) + body)
            if operation == DESTROY:
                return

    def answer(self, operation, body):
        """What to reply, or an errno."""
        if operation == INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, MAX_WRITE, 0, 16, 12, MAX_WRITE, 1, 0, 0, 0)
        if operation in (GETATTR, SETATTR):
            size = len(self.content)
            return ATTRIBUTES.pack(0, 0, 1, size, size // 512, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0)
        if operation == OPEN:
            return struct.pack("=QII", 1, 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return bytes(self.content[offset:offset + size])
        if operation == PUT:
            _, offset, size = struct.unpack_from("=QQI", body)
            self.content[offset:offset + size] = body[40:40 + size]
            self.keep(WRITE, offset, body[40:40 + size])
            return struct.pack("=I4x", size)
        if operation == FSYNC:
            self.keep(SYNC, 0, b"")
            return b""
        return b"" if operation in (FLUSH, RELEASE, DESTROY) else ENOSYS

    def keep(self, kind, offset, data):
        self.record.write(OPERATION.pack(kind, offset, len(data), time.monotonic_ns()) + bytes(data))


if __name__ == "__main__":
    served = File(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    print("ready", flush=True)
    served.run()
