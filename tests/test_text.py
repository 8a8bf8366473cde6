"""Text that others chose goes through us unchanged, and out so that neither a program nor a terminal is misled."""
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import text

AWKWARD = [b"web1", "köln".encode(), b"k\xf6ln", b"a\nb", b"\x1b[31m", "a\u202eb".encode(), "\u3164".encode(),
           b"it's", b"a\\b", b"my guest", b"$HOME", b"-x", "仮想".encode(), b"\xed\xa0\x80"]


@given(st.binary())
def test_bytes_come_out_as_they_came_in(value: bytes) -> None:
    assert text.encode(text.decode(value)) == value


@given(st.text(st.characters(codec=None)))
def test_what_is_valid_can_be_written_as_utf_8_and_as_json(value: str) -> None:
    shown = text.valid({"name": [value]})
    json.dumps(shown, ensure_ascii=False).encode()
    assert shown == {"name": [value]} or any("\ud800" <= letter <= "\udfff" for letter in value)


def test_a_byte_that_is_no_utf_8_is_replaced_for_programs() -> None:
    assert text.valid(text.decode(b"k\xf6ln")) == "k\ufffdln"


@pytest.mark.parametrize(("value", "shown"), [
    ("web1", "web1"), ("köln", "köln"), ("仮想", "仮想"), ("a b", "a b"), ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"),
    ("a\u202eb", "a\\u202eb"), ("a\u200bb", "a\\u200bb"), ("a\u3164b", "a\\u3164b"), ("a\ufe0fb", "a\\ufe0fb"),
    ("k\udcf6ln", "k\\xf6ln"), ("\ud800", "\\ud800"), ("\u2028", "\\u2028"), ("\U000e0041", "\\U000e0041")])
def test_what_hides_or_moves_is_escaped_on_a_terminal(value: str, shown: str) -> None:
    assert text.printable(value) == shown


def test_an_error_cites_what_was_found() -> None:
    assert text.cited("web1:xvda") == "'web1:xvda'" and text.cited("k\udcf6ln\n") == r"'k\xf6ln\n'"


def test_a_line_s_end_stays_where_it_is_wanted() -> None:
    assert text.printable("a\n\x1bb", keep="\n") == "a\n\\x1bb"


@pytest.mark.parametrize(("value", "shown"), [
    ("web1:xvda", "web1:xvda"), ("köln:xvda", "köln:xvda"), ("my guest", "'my guest'"), ("$HOME", "'$HOME'"),
    ("a\nb", "$'a\\x0ab'"), ("k\udcf6ln", "$'k\\xf6ln'"), ("it's", "$'it\\'s'"), ("", "''")])
def test_a_name_is_quoted_as_a_shell_would_have_it(value: str, shown: str) -> None:
    assert text.quoted(value) == shown


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
def test_a_quoted_name_that_is_pasted_into_a_shell_means_the_same_bytes(value: bytes) -> None:
    shown = text.quoted(text.decode(value))
    assert text.printable(shown) == shown
    said = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True).stdout
    assert said == value


@pytest.mark.parametrize(("value", "columns"), [
    ("web1", 4), ("köln", 4), ("仮想", 4), ("\uff57", 2), ("ko\u0308ln", 4)])
def test_letters_have_their_width_on_a_terminal(value: str, columns: int) -> None:
    assert text.width(value) == columns and text.width(text.padded(value, 6)) == 6


@pytest.mark.parametrize(("value", "columns", "shown"), [
    ("web1", 4, "web1"), ("web1", 3, "we…"), ("仮想機", 6, "仮想機"), ("仮想機", 5, "仮想…"), ("仮想機", 4, "仮…"),
    ("web1", 1, "…"), ("web1", 0, "")])
def test_what_is_too_wide_is_cut(value: str, columns: int, shown: str) -> None:
    assert text.cut(value, columns) == shown
