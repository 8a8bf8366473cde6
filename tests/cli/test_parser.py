"""What the command line takes and refuses."""
import argparse
import re

import pytest

from xenvbd.cli import parser


def parse(text: str) -> argparse.Namespace:
    return parser.build().parse_args(text.split())


@pytest.mark.parametrize("text", ["--json list", "list --json", "-q --json list", "--json list -v"])
def test_global_options_stand_before_or_after_the_verb(text: str) -> None:
    assert parse(text).json is True


def test_what_was_given_before_the_verb_is_not_forgotten_after_it() -> None:
    options = parse("--socket /s --timeout 5s list -v")
    assert (options.socket, options.timeout, options.verbose) == ("/s", 5.0, True)


def test_the_later_of_two_counts() -> None:
    assert parse("--timeout 5s list --timeout 10ms").timeout == 0.01


def test_the_socket_comes_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENVBD_SOCKET", "/s")
    assert parse("list").socket == "/s"


def test_a_disks_name_is_made_canonical() -> None:
    assert parse("show web1:51712").disk == "web1:xvda"


@pytest.mark.parametrize(("text", "says"), [
    ("", "required: VERB"),
    ("lists", "invalid choice: 'lists'"),
    ("list --jso", "unrecognized arguments: --jso"),
    ("show web1", "is not a disk's name: DOMAIN:VDEV"),
    ("show web1:xvd", "'xvd' is not a virtual device"),
    ("attach web1 /x sdz", "out of range: expected sda to sdp"),
    ("attach web1 /x xvda --sector-size 1000", "not a power of two from 512 to 4K"),
    ("attach web1 /x xvda --sector-size 8K", "not a power of two from 512 to 4K"),
    ("attach web1 /x xvda --physical-sector-size 4M", "not a power of two from 512 to 2M"),
    ("bench /x --bs 2M", "not a power of two from 512 to 1M"),
    ("bench /x --queues 17", "out of range: expected 1 to 16"),
    ("bench /x --seconds 0", "no time above 0"),
    ("attach web1 /x xvda --sector-size many", "size 'many': expected a number"),
    ("attach web1 /x xvda --ring-page-order 5", "invalid choice: '?5"),
    ("--timeout soon list", "duration 'soon'"),
    ("sim --guests 0", "'0' is not a whole number from 1"),
    ("bench", "required: TARGET"),
    ("bench null:1G --rw trim", "invalid choice: 'trim'"),
])
def test_a_usage_error_is_2_and_names_the_word_and_the_help(
        text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(text)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(says, said) and "--help" in said


@pytest.mark.parametrize("text", ["--help", "list --help", "--version", "--verbs", "bench --long-options"])
def test_help_and_lists_are_0_and_on_stdout(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(text)
    assert stop.value.code == 0 and capsys.readouterr().out


def test_verbs_are_in_the_help_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    said = capsys.readouterr().out
    assert all(f"\n    {verb.NAME} " in said for verb in parser.VERBS)


def test_long_options_lists_what_help_shows_and_not_what_it_hides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("detach --long-options")
    assert capsys.readouterr().out.split() == [
        "--force", "--help", "--json", "--no-wait", "--quiet", "--socket", "--timeout", "--verbose", "--wait"]
