"""A process that has the data plane imported, and forks one that serves a ring for each order on its standard input.

    python forker.py    {"spec": ..., "agreement": ..., "image": ..., "journal": ..., "adopt": ..., "crash": N} a line

It answers {"pid": N} at once, then the child says {"serving": seconds} or {"refused": TEXT}, and when that is dead,
{"status": N} follows.  SIGTERM makes a child hand its ring over.
"""
import ctypes
import json
import os
import signal
import struct
import sys
import threading
import time

from xenvbd import disk, hv, target
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.disk.faults import FaultDisk
from xenvbd.errors import Error
from xenvbd.features import Agreement

# An entry of the record (xenvbd/disk/faults.pyx): whoever began something before has ended, for the lock is ours.
RECORD, MAGIC, TAKEN_OVER = struct.Struct("=7Qq"), 0x64726f6365526276, 255


def say(**fields):
    os.write(1, json.dumps(fields).encode() + b"\n")


def die_at(number):
    """At the crash point of this number; 0: at none."""
    if number:
        ctypes.c_ulong.in_dll(ctypes.CDLL(None), "xenvbd_crash_at").value = number


def serve(order):
    """In the child: be a worker."""
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: leave.set())
    started = time.monotonic()
    agreement = Agreement.from_json(order["agreement"])
    image = disk.open_image(order["image"], read_only=False, fence="1/51712", wait=True, direct=order.get("direct"))
    fenced = time.monotonic()
    served = disk.open(target.parse(order["image"]), fd=image.fd, engine=order.get("engine", "auto"),
                       direct=order.get("direct"))
    if "record" in order:
        record = os.open(order["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(record, RECORD.pack(MAGIC, TAKEN_OVER, 0, time.monotonic_ns(), 0, 0, 0, 0))
        served = FaultDisk(served, record=record)
    plane = DataPlane(hv.open(order["spec"], 0), served, name="crash", image=(image.dev, image.ino),
                      settings=Settings(**order.get("settings", {})))
    journals = [os.open(f"{order['journal']}.{number}", os.O_RDWR | os.O_CREAT, 0o600)
                for number in range(len(agreement.queues))]
    die_at(order.get("crash", 0))
    plane.start(agreement, journals, adopt=order["adopt"])
    say(serving=time.monotonic() - started, fence=fenced - started, fenced=fenced)
    leave.wait()
    plane.stop_begin(hand_over=True)
    plane.stop()
    os._exit(0)


def main():
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                serve(json.loads(line))
            except Error as error:
                say(refused=str(error))
            os._exit(1)
        say(pid=pid)
        say(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
