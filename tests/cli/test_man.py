"""xenvbd(8) and the parser say the same, both ways."""
import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenvbd import errors
from xenvbd.cli import parser, work

PAGE = Path(__file__).parents[2] / "man/xenvbd.8"
SECTIONS = dict(re.findall(r"^\.Sh ([A-Z ]+)\n(.*?)(?=^\.Sh|\Z)", PAGE.read_text(), re.M | re.S))
VERBS = [verb.NAME for verb in parser.VERBS]


def documented(section: str) -> set[str]:
    """The options that a section has an item for."""
    return {"-" + flag for line in re.findall(r"^\.It Fl (.*)$", SECTIONS[section], re.M)
            for flag in re.findall(r"(?:^|Fl )(-?[\w-]+)", line)}


def subparsers() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in parser.build()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def visible(one: argparse.ArgumentParser) -> Iterator[str]:
    for action in one._actions:
        if action.help != argparse.SUPPRESS:
            yield from action.option_strings


def common(verb: str) -> set[str]:
    """What a section may leave to another: the global options, the load's and the disk's."""
    if verb != "bench":
        return documented("GLOBAL OPTIONS")
    one = argparse.ArgumentParser()
    work.add_options(one, rw="read", seconds=1.0)
    attach = {"--sector-size", "--physical-sector-size", "--no-discard", "--persistent", "--poll-us",
              "--rerror", "--werror", "--direct", "--no-direct", "--ring-page-order"}
    return documented("GLOBAL OPTIONS") | set(visible(one)) | attach


def test_mandoc_finds_nothing_to_warn_of() -> None:
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", PAGE], capture_output=True, text=True, check=False)
    assert (lint.stdout, lint.returncode) == ("", 0)


def test_the_global_options_are_documented() -> None:
    assert documented("GLOBAL OPTIONS") == set(visible(parser.build()))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_documented(verb: str) -> None:
    assert set(visible(subparsers()[verb])) - common(verb) <= documented(verb.upper())


@pytest.mark.parametrize("verb", VERBS)
def test_every_documented_option_of_a_verb_exists(verb: str) -> None:
    assert documented(verb.upper()) <= set(visible(subparsers()[verb]))


def test_every_exit_status_is_documented() -> None:
    items = re.findall(r"^\.It (\d)\n(.*)$", SECTIONS["EXIT STATUS"], re.M)
    assert {int(status): text for status, text in items} == {row[0]: row[1] for row in errors.EXIT_CODES}


def test_the_examples_are_commands_that_the_parser_takes() -> None:
    commands = re.findall(r"^[$#] xenvbd (.*)$", SECTIONS["EXAMPLES"], re.M)
    assert len(commands) >= 4
    for command in commands:
        parser.build().parse_args(shlex.split(command))
