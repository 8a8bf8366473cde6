"""One call of the daemon for the verbs that ask it something."""
from __future__ import annotations

import argparse
from typing import Any

from xenvbd import control

DEFAULT_SOCKET = "/run/xenvbd/control.sock"
# The daemon says why something took too long; the command waits a little longer than it, to hear that.
GRACE = 3.0


def call(options: argparse.Namespace, verb: str, **params: Any) -> dict[str, Any]:
    """The daemon's result; params that are None are left out.  Raises what the daemon raised, or ControlError."""
    client = control.Client(options.socket or DEFAULT_SOCKET, timeout=options.timeout + GRACE)
    return client.call(verb, **{name: value for name, value in params.items() if value is not None})
