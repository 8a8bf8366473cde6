"""A process that has the data plane imported, and forks one for each order that attaches a disk, serves its ring and
detaches it while one of its system calls or allocations fails (failcall.c), or one of the hypervisor's operations.

    python child.py    {"spec": ..., "agreement": ..., "image": ..., "journal": ..., "at": N, "variant": V, ...} a line

It answers {"pid": N}; the child says {"serving": true} or {"refused": TEXT}, at its end {"calls": N, "failed": NAME,
"events": [...], "left": [...]}, and when it is dead {"status": N} follows.  SIGTERM makes it hand its ring over.
"""
import ctypes
import json
import os
import select
import signal
import sys

from xenvbd import disk, hv, target
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.features import Agreement
from xenvbd.hv import sim

LIBC = ctypes.CDLL(None)


def say(**fields):
    os.write(1, json.dumps(fields).encode() + b"\n")


def word(name):
    return ctypes.c_uint.in_dll(LIBC, f"xenvbd_fail_{name}")


def descriptors():
    """What is open, by what it is: none may be more at the end than at the beginning."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:           # the directory's own
            continue
    return found


def mappings():
    """The files that are mapped, and how much of them: the machine's memory, journals, io_uring's rings."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            name = line.split(None, 5)[5:]
            if name and (name[0].startswith("/dev/shm") or "io_uring" in name[0]):
                found.append(name[0].strip())
    return found


def left(before, spec):
    """What is there now and was not before.  The machine's own files stay as long as it is joined."""
    directory = spec.partition(":")[2]
    now = descriptors() + mappings()
    for name in before:
        if name in now:
            now.remove(name)
    pages = [f"gref {gref}" for pid, gref in sim.Machine.open(directory).mappings(1) if pid == os.getpid()]
    return pages + [name for name in now if not name.startswith(("/proc/", "pipe:", directory))]


class Child:
    def __init__(self, order):
        self.order, self.events = order, []
        self.leaving, self.told = os.pipe()
        signal.signal(signal.SIGTERM, lambda number, frame: os.write(self.told, b"x"))

    def run(self):
        """Attach, serve until told to leave, detach; say what is left."""
        machine = hv.open(self.order["spec"], 0)
        before = descriptors() + mappings()
        ctypes.c_ulong.in_dll(LIBC, "xenvbd_fail_at").value = self.order["at"]
        word("variant").value = self.order["variant"]
        word("armed").value = 1
        try:
            self.serve(machine)
        except (OSError, MemoryError, RuntimeError) as error:
            word("armed").value = 0
            say(refused=f"{type(error).__name__}: {error}")
        word("armed").value = 0
        name = ctypes.create_string_buffer(64).__class__.in_dll(LIBC, "xenvbd_fail_name").value.decode()
        say(calls=ctypes.c_ulong.in_dll(LIBC, "xenvbd_fail_count").value, failed=name, events=self.events,
            left=left(before, self.order["spec"]))

    def serve(self, machine):
        order = self.order
        agreement = Agreement.from_json(order["agreement"])
        image = disk.open_image(order["image"], read_only=False, fence="1/51712", wait=True)
        served = disk.open(target.parse(order["image"]), fd=image.fd, engine=order["engine"])
        try:
            self.serve_disk(machine, agreement, image, served)
        finally:
            served.close()

    def serve_disk(self, machine, agreement, image, served):
        plane = DataPlane(machine, served, name="fault", image=(image.dev, image.ino),
                          settings=Settings(**self.order["settings"]))
        journal = None
        try:
            journal = os.open(self.order["journal"], os.O_RDWR | os.O_CREAT, 0o600)
            plane.start(agreement, [journal], adopt=self.order["adopt"])
            say(serving=True)
            self.wait(plane)
            plane.stop_begin(hand_over=True)
            plane.stop()
        finally:
            if journal is not None:
                os.close(journal)
            plane.destroy()

    def wait(self, plane):
        """Until told to leave; takes the plane's events meanwhile, and says which."""
        while True:
            ready, _, _ = select.select([self.leaving, plane.events_fd], [], [])
            for event in plane.events():
                self.events.append(event.kind)
                say(event=event.kind)
            if self.leaving in ready:
                return


def main():
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            Child(json.loads(line)).run()
            os._exit(0)
        say(pid=pid)
        say(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
