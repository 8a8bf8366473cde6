"""`xenvbd serve` in which one call fails (failcall.c), as it is told on its standard input.

    python manager.py DIRECTORY    {"at": N, "variant": V} a line: arm; {"at": 0}: disarm

It answers {"calls": N, "failed": NAME, "held": [...], "faults": N}: how many calls were made while it was armed, which
failed, what descriptors are open, how many callbacks of the loop have failed.
"""
import ctypes
import json
import logging
import os
import sys
from dataclasses import replace

from xenvbd import adoption, backend, config, connection, control, device, loop, service, workers

LIBC = ctypes.CDLL(None)
SOON = 0.05                         # instead of a second, until something is tried again


def word(name, kind=ctypes.c_uint):
    return kind.in_dll(LIBC, f"xenvbd_fail_{name}")


def held():
    """What is open, but for what comes and goes by itself: clients of the control socket, and this listing."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted("socket" if name.startswith("socket:") else name for name in found if not name.startswith("/proc/"))


class Orders:
    """From standard input, while the manager runs."""

    def __init__(self, manager):
        self.manager = manager
        manager.loop.read(0, self.take)

    def take(self):
        word("armed").value = 0
        order = json.loads(os.read(0, 4096))
        name = (ctypes.c_char * 64).in_dll(LIBC, "xenvbd_fail_name").value.decode()
        answer = {"calls": word("count", ctypes.c_ulong).value, "failed": name, "held": held(),
                  "faults": self.manager.loop.failures}
        word("count", ctypes.c_ulong).value = 0
        ctypes.memset(ctypes.addressof((ctypes.c_char * 64).in_dll(LIBC, "xenvbd_fail_name")), 0, 64)
        word("at", ctypes.c_ulong).value, word("variant").value = order["at"], order.get("variant", 0)
        os.write(1, json.dumps(answer).encode() + b"\n")
        word("armed").value = order["at"] > 0


def main(directory):
    logging.basicConfig(format="%(relativeCreated)d %(name)s %(message)s", level=logging.INFO)
    adoption.RETRY_SECONDS = backend.AGAIN_SECONDS = device.RETRY_SECONDS = workers.RECONNECT_SECONDS = SOON
    connection.DISCONNECT_SECONDS = SOON
    loop.ACCEPT_SECONDS, workers.PAUSE_SECONDS, control.IDLE_SECONDS = SOON, 0.0, 5.0
    settings = replace(config.Config(), hypervisor=f"sim:{directory}", runtime_dir=f"{directory}/run",
                       kinds=("qdisk",), allow=(directory,), spare_worker=False)
    manager = service.Service(settings)
    Orders(manager)
    manager.run()


if __name__ == "__main__":
    main(sys.argv[1])
