"""The command: `xenvbd VERB ...`.  One file a verb; this one runs the verb and turns its errors into exit statuses."""
from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from xenvbd import errors, text
from xenvbd.cli import parser, render

LINE_END = "\n"                     # of what a process of a simulated machine said last
REPORT = "-v shows where; please report it"

# What to do next, by what was raised; the first row that fits is printed under the error.
NEXT_STEPS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.NoHypervisor, "without Xen, `xenvbd sim` and `xenvbd bench` run on a simulated machine"),
    (errors.ControlError, "its socket is given by --socket or $XENVBD_SOCKET"),
    (errors.PolicyError, "the places that may be served are `allow` under [targets] in the daemon's configuration"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line argv (default: this process's) and return the exit status; see errors.EXIT_CODES."""
    open_streams()
    words = own_words() if argv is None else list(argv)
    options = parser.build(parser.wants_json(words)).parse_args(words)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        give_up_output()            # the reader (a pager, head) has gone
        return 128 + signal.SIGPIPE
    except OSError as exc:
        return complain(exc, options.json)
    except Exception as exc:
        return confess(exc, options.verbose, options.json)
    finally:
        flush_output()


def own_words() -> list[str]:
    """This process's command line, byte for byte (text.decode()), whatever the locale says of its letters."""
    return [text.decode(os.fsencode(word)) for word in sys.argv[1:]]


def open_streams() -> None:
    """Let stdin, stdout and stderr be there, for nobody if they were closed, and what is written UTF-8."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def flush_output() -> None:
    """Write what is left, or nothing: what cannot be written has been complained of, or nobody reads it."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up_output()


def give_up_output() -> None:
    """What is still buffered must not complain at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def complain(exc: OSError, as_json: bool = False) -> int:
    """Print what went wrong and what to do next on stderr; return the exit status."""
    status = errors.exit_code(exc)
    hint = next((step for cls, step in NEXT_STEPS if isinstance(exc, cls)), None)
    if as_json:
        print(render.error(exc, status, hint), file=sys.stderr)
        return status
    print(f"xenvbd: {text.printable(str(exc), keep=LINE_END)}", file=sys.stderr)
    if hint:
        print(f"        {hint}", file=sys.stderr)
    return status


def confess(exc: Exception, verbose: bool, as_json: bool = False) -> int:
    """Say that this is a fault of xenvbd, not of its user; -v adds where."""
    if verbose:
        traceback.print_exception(exc)
    said = f"internal error: {type(exc).__name__}: {text.printable(str(exc))}"
    if as_json:
        print(render.error(errors.Error(errno.EIO, said), errors.FAILED, REPORT), file=sys.stderr)
        return errors.FAILED
    print(f"xenvbd: {said}", file=sys.stderr)
    if not verbose:
        print(f"        {REPORT}", file=sys.stderr)
    return errors.FAILED
