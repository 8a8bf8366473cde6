"""What the tests of the xenstore session share: expecting an errno, waiting for events."""
import contextlib
import select
import time
from collections.abc import Callable, Iterator

import pytest

from xenvbd.errors import StoreError
from xenvbd.store import Store


@contextlib.contextmanager
def refused(code: int) -> Iterator[pytest.ExceptionInfo[StoreError]]:
    """Expect a StoreError with this errno."""
    with pytest.raises(StoreError) as info:
        yield info
    assert info.value.errno == code, info.value


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that nobody tells us of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.001)


def dispatch_until(condition: Callable[[], object], *stores: Store, seconds: float = 5.0) -> None:
    """Dispatch events as they come, until the condition holds."""
    poll = select.poll()
    for store in stores:
        poll.register(store.fileno(), select.POLLIN)
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        assert left > 0, "the condition did not come true in time"
        poll.poll(left * 1000)
        for store in stores:
            store.dispatch()


def settled(store: Store) -> None:
    """Dispatch all events that what has been done so far caused: xenstored answers in order."""
    store.domain_path(0)
    while store.dispatch():
        store.domain_path(0)
