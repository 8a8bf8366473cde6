"""Every system call, allocation and operation of the hypervisor that attach, I/O and detach make, failed in turn: no
crash, no leak, no request without its answer, no false answer.

The whole of it with XENVBD_CRASH_ALL=1 (`make test-crash`); without, some of each kind."""
import contextlib
import errno
import os
import sys
import tempfile

import pytest

from tests.faults.life import BLOCKS, Life
from tests.support.guest import PAGE, Guest

ALL = os.environ.get("XENVBD_CRASH_ALL") == "1"
STEP = 1 if ALL else 7
SETTINGS = {"max_buffer_bytes": 2 << 20}
GNTST_BAD_PAGE = -9


@pytest.fixture
def life(machine, failing):
    """with life(engine, ...) as a Life on a fresh ring, image and journal."""
    machine.add_domain(1)

    @contextlib.contextmanager
    def make(engine):
        guest = Guest(machine, 1)
        queue = {"ring_refs": list(guest.ring_pages.refs), "event_channel": guest.port}
        agreement = {"domid": 1, "devid": 51712, "abi": guest.abi, "queues": [queue]}
        with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
            with open(f"{directory}/image", "wb") as file:
                file.truncate(BLOCKS * PAGE)
            try:
                yield Life(failing, guest, spec=f"sim:{machine.dir}", agreement=agreement, engine=engine, adopt=True,
                           image=f"{directory}/image", journal=f"{directory}/journal", settings=SETTINGS)
            finally:
                guest.close()

    return make


@pytest.mark.parametrize("adopting", [False, True], ids=["", "adopting"])
@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_any_call_may_fail(life, engine, variant, adopting):
    """variant: of the errors that a call may have; adopting: by a plane that goes on with the ring of another."""
    at, failed = 1 + 2 * variant + 3 * adopting, "first"
    found = {}
    while failed:
        with life(engine) as one:
            if adopting:
                one.serve(0, 0, clean=True)
            failed = one.run(at, variant)
        found[failed] = found.get(failed, 0) + 1
        at += STEP
    del found[""]
    print(f"\n{engine}{', adopting' * adopting}: {sum(found.values())} faults: {found}", file=sys.stderr)
    assert at > 60, "an attach alone makes more calls"


@pytest.mark.parametrize(("operation", "status"), [
    ("map", -errno.ENOMEM), ("bind", -errno.ENOSPC), ("copy", GNTST_BAD_PAGE), ("copy-call", -errno.ENOMEM),
    ("open", -errno.EMFILE), ("notify", -errno.EINVAL)])
def test_any_operation_of_the_hypervisor_may_fail(life, machine, operation, status):
    after, hit = 0, True
    while hit:
        before = machine.fault_hits
        with life("uring") as one:
            machine.inject(operation, after, status, domid=0)
            try:
                one.serve(0, 0)
            finally:
                machine.clear_faults()
            hit = machine.fault_hits > before
            one.serve(0, 0, clean=True)
        after += 1 if ALL else 3
    assert after > 0
