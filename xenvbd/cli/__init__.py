"""The command: `xenvbd VERB ...`.  One file a verb; this one runs the verb and turns its errors into exit statuses."""
from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from xenvbd import errors
from xenvbd.cli import parser, render

# What to do next, by what was raised; the first row that fits is printed under the error.
NEXT_STEPS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.NoHypervisor, "without Xen, `xenvbd sim` and `xenvbd bench` run on a simulated machine"),
    (errors.ControlError, "its socket is given by --socket or $XENVBD_SOCKET"),
    (errors.PolicyError, "the places that may be served are `allow` under [targets] in the daemon's configuration"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line argv (default: this process's) and return the exit status; see errors.EXIT_CODES."""
    options = parser.build().parse_args(argv)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        # The reader (a pager, head) has gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as exc:
        return complain(exc, options.json)
    except Exception as exc:
        return confess(exc, options.verbose)


def complain(exc: OSError, as_json: bool = False) -> int:
    """Print what went wrong and what to do next on stderr; return the exit status."""
    status = errors.exit_code(exc)
    hint = next((text for cls, text in NEXT_STEPS if isinstance(exc, cls)), None)
    if as_json:
        fields = {**errors.to_json(exc), "exit-status": status, "hint": hint}
        print(render.as_json({"error": fields}), file=sys.stderr)
        return status
    print(f"xenvbd: {exc}", file=sys.stderr)
    if hint:
        print(f"        {hint}", file=sys.stderr)
    return status


def confess(exc: Exception, verbose: bool) -> int:
    """Say that this is a fault of xenvbd, not of its user; -v adds where."""
    if verbose:
        traceback.print_exception(exc)
    print(f"xenvbd: internal error: {type(exc).__name__}: {exc}", file=sys.stderr)
    if not verbose:
        print("        -v shows where; please report it", file=sys.stderr)
    return errors.FAILED
