"""One call of the daemon for the verbs that ask it something."""
from __future__ import annotations

import argparse
import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any

from xenvbd import control, errors
from xenvbd.text import printable

DEFAULT_SOCKET = "/run/xenvbd/control.sock"
# The daemon says why something took too long; the command waits a little longer than it, to hear that.
GRACE = 3.0


def call(options: argparse.Namespace, verb: str, **params: Any) -> dict[str, Any]:
    """The daemon's result; params that are None are left out.  Raises what the daemon raised, or ControlError."""
    client = control.Client(options.socket or DEFAULT_SOCKET, timeout=options.timeout + GRACE)
    return client.call(verb, **{name: value for name, value in params.items() if value is not None})


@contextlib.contextmanager
def told_at_the_end(sentence: str) -> Iterator[None]:
    """For what the daemon does whether the command waits or not: say so, on standard error, if the command ends first,
    by a signal or because the daemon does not answer in time."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"xenvbd: {printable(sentence)}", file=sys.stderr)
        raise
    except errors.ControlError as exc:
        if exc.errno == errno.ETIMEDOUT:
            raise errors.ControlError(exc.errno, f"{exc.message}; {sentence}", path=exc.path) from None
        raise
