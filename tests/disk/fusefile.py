"""A file system of one file, for what ordinary ones do not do: FUSE's protocol, as far as one file needs it.

    python fusefile.py FILE SIZE [--locks | --no-locks] [--held PATH]

It mounts itself over FILE, says "ready", and ends when it is unmounted.  --locks: it keeps locks itself, and lets those
of a description go when they are unlocked only, as JuiceFS does; --no-locks: it has none.  --held: a write waits as
long as PATH exists, and is done then; PATH.write says that there is one.  Needs root."""
import argparse
import ctypes
import os
import struct
import threading
import time

# linux/fuse.h
HEADER, REPLY = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=QI4x6Q10I")
LOCK = struct.Struct("=4QII")               # handle, owner, start, end, type, pid
FORGET, GETATTR, SETATTR, OPEN, READ, PUT, STATFS, RELEASE, FSYNC, FLUSH, INIT = 2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26
GETLK, SETLK, SETLKW, INTERRUPT, DESTROY, BATCH_FORGET = 31, 32, 33, 36, 38, 42
POSIX_LOCKS = 1 << 1
MAX_WRITE = 128 << 10
ENOSYS, ENOLCK, EAGAIN, UNLOCKED = 38, 37, 11, 2


class File:
    def __init__(self, path, size, locks, held):
        """locks: True: it keeps them itself; False: it has none; None: the kernel keeps them."""
        self.content = bytearray(size)
        self.asks_for_locks, self.held = locks is not None, held
        self.locks = [] if locks else None  # owner, start, end, type
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=100600,user_id=0,group_id=0,allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"xenvbd-test", path.encode(), b"fuse", 0, options) < 0:
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
            body = memoryview(request)[HEADER.size:]
            if operation == PUT:
                threading.Thread(target=self.reply, args=(unique, operation, body), daemon=True).start()
            else:
                self.reply(unique, operation, body)
            if operation == DESTROY:
                return

    def reply(self, unique, operation, body):
        answer = self.answer(operation, body)
        error, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
        os.write(self.device, REPLY.pack(REPLY.size + len(data), error, unique) + data)

    def answer(self, operation, body):
        """What to reply, or an errno."""
        if operation == INIT:
            flags = POSIX_LOCKS if self.asks_for_locks else 0
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, MAX_WRITE, flags, 16, 12, MAX_WRITE, 1, 0, 0, 0)
        if operation in (GETATTR, SETATTR):
            size = len(self.content)
            return ATTRIBUTES.pack(0, 0, 1, size, size // 512, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0)
        if operation == OPEN:
            return struct.pack("=QII", 1, 1, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return bytes(self.content[offset:offset + size])
        if operation == PUT:
            return self.put(body)
        if operation == STATFS:
            return bytes(80)
        if operation in (GETLK, SETLK, SETLKW):
            return ENOLCK if self.locks is None else self.lock(operation, *LOCK.unpack_from(body)[1:5])
        return b"" if operation in (FLUSH, RELEASE, DESTROY, FSYNC) else ENOSYS

    def put(self, body):
        _, offset, size = struct.unpack_from("=QQI", body)
        while self.held and os.path.exists(self.held):
            os.close(os.open(f"{self.held}.write", os.O_CREAT | os.O_WRONLY))
            time.sleep(0.01)
        self.content[offset:offset + size] = body[40:40 + size]
        return struct.pack("=I4x", size)

    def lock(self, operation, owner, start, end, kind):
        others = [lock for lock in self.locks if lock[0] != owner and lock[1] <= end and start <= lock[2]
                  and kind != UNLOCKED and (kind or lock[3])]
        if operation == GETLK:
            _, first, last, held = others[0] if others else (0, 0, 0, UNLOCKED)
            return struct.pack("=QQII", first, last, held, 0)
        if others:
            return EAGAIN
        self.locks = [lock for lock in self.locks if lock[0] != owner or not (lock[1] <= end and start <= lock[2])]
        self.locks += [] if kind == UNLOCKED else [(owner, start, end, kind)]
        return b""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("size", type=int)
    parser.add_argument("--locks", action=argparse.BooleanOptionalAction)
    parser.add_argument("--held")
    options = parser.parse_args()
    served = File(options.path, options.size, options.locks, options.held)
    print("ready", flush=True)
    served.run()
