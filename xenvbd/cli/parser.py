"""The whole command line as one argparse parser: the global options, and each verb's own."""
from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import xenvbd
from xenvbd import errors
from xenvbd.cli import (
    attach,
    bench,
    detach,
    doctor,
    explain,
    listing,
    options,
    render,
    restart,
    resume,
    serve,
    show,
    sim,
)
from xenvbd.text import printable

VERBS = (serve, attach, detach, listing, show, explain, resume, restart, doctor, sim, bench)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are two lines, what is wrong and where the help is, or one of JSON."""

    def __init__(self, *args: Any, as_json: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.as_json = as_json

    def error(self, message: str) -> NoReturn:
        hint = f"see {self.prog} --help"
        if self.as_json:
            wrong = errors.PropertyError(errno.EINVAL, message)
            self.exit(errors.USAGE, render.error(wrong, errors.USAGE, hint) + "\n")
        self.exit(errors.USAGE, f"{self.prog}: {printable(message)}\n{' ' * len(self.prog)}  {hint}\n")


class Listing(argparse.Action):
    """A hidden option that prints words for shell completion, one a line, as nbdkit's --long-options does."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print("\n".join(words(parser, self.option_strings[0])))
        parser.exit()


def words(parser: argparse.ArgumentParser, what: str) -> list[str]:
    """The sorted words that --long-options, --short-options or --verbs lists for a parser."""
    if what == "--verbs":
        return [verb.NAME for verb in VERBS]
    shown = [name for action in parser._actions if action.help != argparse.SUPPRESS
             for name in action.option_strings]
    return sorted(name for name in shown if name.startswith("--") == (what == "--long-options"))


def add_global(parser: argparse.ArgumentParser, top: bool) -> None:
    """The options that may stand before or after the verb.  Only the top parser has defaults: a verb's
    default would overwrite what was given before the verb."""
    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("global options")
    group.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")
    group.add_argument("-q", "--quiet", action="store_true", default=default(False), help="print less")
    group.add_argument("-v", "--verbose", action="store_true", default=default(False), help="print more")
    group.add_argument("--socket", metavar="PATH", default=default(os.environ.get("XENVBD_SOCKET")),
                       help="the daemon's control socket")
    group.add_argument("--timeout", metavar="TIME", type=options.duration, default=default(30.0),
                       help="longest wait for the daemon or a guest (default: 30s)")
    parser.add_argument("--long-options", action=Listing)
    parser.add_argument("--short-options", action=Listing)


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that is wrong."""
    options = words[:words.index("--")] if "--" in words else words
    return "--json" in options


def build(as_json: bool = False) -> argparse.ArgumentParser:
    """The parser.  What it returns has .run, the verb's function of the parsed options.  as_json: errors are that."""
    parser = Parser(prog="xenvbd", allow_abbrev=False, as_json=as_json,
                    description="Serve disks to Xen guests: a Xen virtual block device (vbd) backend for Linux.",
                    epilog="A disk is named DOMAIN:VDEV, as in web1:xvda.  xenvbd VERB --help says more.")
    parser.add_argument("--version", action="version", version=f"xenvbd {xenvbd.__version__}")
    parser.add_argument("--verbs", action=Listing)
    add_global(parser, top=True)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(verb.NAME, help=verb.HELP, description=verb.HELP[0].upper() + verb.HELP[1:] + ".",
                               allow_abbrev=False, as_json=as_json, epilog=getattr(verb, "EPILOG", None))
        verb.add_arguments(one)
        add_global(one, top=False)
        one.set_defaults(run=verb.run, verb=verb.NAME)
    return parser
