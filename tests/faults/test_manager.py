"""Every system call of the manager failed in turn while a disk is attached, connected, used and detached, and while
the disk of a killed worker is taken over: no crash, no leak, nothing untrue, and a reason for all that is refused.

The whole of it with XENVBD_CRASH_ALL=1 (`make test-crash`); without, some."""
import contextlib
import os
import signal
import sys

import pytest

from tests.faults.reign import Life, Reign
from tests.faults.test_matrix import ALL
from tests.support.guest import OKAY, WRITE
from tests.support.host import wait


@pytest.fixture(scope="module")
def reign(failcall):
    host = Reign(failcall)
    try:
        yield host
    finally:
        host.neighbour.close()
        host.close()


HELD = {"anon_inode:[pidfd]": 1, "socket": 3}       # domain 2's worker; its connection, the store's, the listener


def settled(host, failed):
    """Wait until the manager has what it needs for domain 2's disk, and no more."""
    def is_as_before():
        held = host.order()["held"]
        files = [name for name in held if name.startswith(f"{host.directory}/run/") or name.endswith(".img")]
        return all(held.count(name) == count for name, count in HELD.items()) \
            and sorted(files) == [f"{host.directory}/2.img", f"{host.directory}/run/manager.lock"]      # its claim

    wait(is_as_before, f"nothing is left of {failed}: {host.order()['held']}")


@contextlib.contextmanager
def told(host):
    """What failed, and what the manager said of it, with a failure of the test."""
    begin = len(host.text())
    try:
        yield
    except BaseException:
        with contextlib.suppress(AssertionError, OSError):
            print(f"failed: {host.order()['failed']}", file=sys.stderr)
        print(host.text()[begin:], file=sys.stderr)
        raise


def each(step, first):
    """Numbers of faults, until told that there was none."""
    at = first
    while True:
        yield at
        at += step


# Each fault of the whole matrix in one of so many parts, so that one can be run by itself.
PARTS = range(4 if ALL else 1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", [0, 1])
def test_any_call_of_the_manager_may_fail_in_a_disk_s_life(reign, variant, part):
    life, found, refused = Life(reign), {}, 0
    life.run(0, force=True)
    life.end()
    settled(reign, "a life without a fault")
    for at in each(len(PARTS), 1 + part) if ALL else each(241, 7 + 120 * variant):
        with told(reign):
            reign.order(at=at, variant=variant)
            refused += bool(life.run(at, force=at % 2 == 0))
            failed = reign.order()["failed"]
            life.end(failed)
            reign.neighbour.use(at)
            settled(reign, failed)
        if not failed:
            break
        found[failed] = found.get(failed, 0) + 1
    life.tenant.close()
    assert reign.order()["faults"] == 0, f"a callback failed: {reign.text()}"
    print(f"\nmanager: {sum(found.values())} faults, {refused} refusals: {found}", file=sys.stderr)
    assert at > 100, "an attach alone makes more calls"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", [0, 1])
def test_any_call_of_the_manager_may_fail_while_a_disk_is_taken_over(reign, variant, part):
    """The guest sees nothing but a pause."""
    tenant, found = reign.neighbour, {}
    for at in each(len(PARTS), 1 + part) if ALL else each(401, 9 + 197 * variant):
        segments, killed = ((tenant.pages.refs[0], 0, 7),), reign.worker(2)
        with told(reign):
            reign.order(at=at, variant=variant)
            os.kill(killed, signal.SIGKILL)
            assert tenant.guest.do(tenant.guest.request(WRITE, 16, segments), timeout=30) == [OKAY]
            failed = reign.order()["failed"]
            wait(lambda: reign.worker(2) not in (None, killed), "another worker")   # noqa: B023
            tenant.use(at)
            settled(reign, failed)
        if not failed:
            break
        found[failed] = found.get(failed, 0) + 1
    assert reign.order()["faults"] == 0, f"a callback failed: {reign.text()}"
    print(f"\ntaking over: {sum(found.values())} faults: {found}", file=sys.stderr)
    assert at > 20, "to take over alone makes more calls"
