"""Text that others chose, a domain's name or a path: from bytes into a str and out again, to programs and to terminals.

Inside of us it is what it was, byte for byte: bytes that are not UTF-8 are kept as surrogates (PEP 383).  What goes out
is valid UTF-8, and what a terminal shows moves no cursor, hides nothing and has a known width.
"""
from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# What a person cannot see, beside what str.isprintable() says: Unicode's Default_Ignorable_Code_Point, and blanks that
# are letters or symbols (Hangul fillers, the Braille blank).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
                        "\U000e0100-\U000e01ef]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[\w./:@%+,=-]+")          # that no shell takes for anything else


def decode(value: bytes) -> str:
    """The text of a node.  It never fails; encode() gives the same bytes back."""
    return value.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that were decoded; a surrogate that stands for no byte becomes a question mark."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def valid(value: Any) -> Any:
    """A text, or a JSON value with all its texts, fit to be written as UTF-8: what was none is U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {valid(name): valid(each) for name, each in value.items()}
    return [valid(each) for each in value] if isinstance(value, list | tuple) else value


def as_json(value: Any, **how: Any) -> str:
    """JSON that every parser takes, also of texts that are not valid().  how: as for json.dumps()."""
    written = json.dumps(value, **how)
    return json.dumps(valid(value), **how) if "\\ud" in written or _SURROGATE.search(written) else written


def printable(text: str, keep: str = "") -> str:
    """The text for a terminal or a log: control, bidirectional and invisible characters, and bytes that are no UTF-8,
    are written as escapes.  keep: characters that stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_seen(letter) else _escape(letter) for letter in text)


def quoted(text: str) -> str:
    """The text as a shell's word that means it, byte for byte, and that a terminal can be shown: web1:xvda,
    'my guest:xvda', $'a\\nb:xvda'."""
    if _PLAIN.fullmatch(text) and printable(text) == text:
        return text
    if printable(text) == text and "'" not in text:
        return f"'{text}'"
    return "$'" + "".join(_in_quotes(letter) for letter in text) + "'"


def cited(text: str) -> str:
    """The text as an error message has it: what was found, in quotes."""
    return f"'{printable(text)}'"


def width(text: str) -> int:
    """The columns that a printable text takes on a terminal: East Asian letters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """The text, cut to so many columns if it is wider; then it ends in an ellipsis."""
    if width(text) <= columns:
        return text
    kept, left = [], columns - 1
    for letter in text:
        left -= _columns(letter)
        if left < 0:
            break
        kept.append(letter)
    return "".join(kept) + "\u2026" if columns > 0 else ""


def cut_start(text: str, columns: int) -> str:
    """As cut(), but the end of the text is kept: of a path the name."""
    return text if width(text) <= columns else cut(text[::-1], columns)[::-1]


def padded(text: str, columns: int) -> str:
    """The text, filled up with blanks to so many columns."""
    return text + " " * (columns - width(text))


def _columns(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _is_seen(letter: str) -> bool:
    return letter.isprintable() and not _INVISIBLE.match(letter)


def _escape(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xdc00:02x}"
    return letter.encode("unicode_escape").decode()


def _in_quotes(letter: str) -> str:
    """A letter as a shell takes it between $' and ': what cannot be seen byte by byte, whatever its locale is."""
    if letter in "\\'":
        return f"\\{letter}"
    return letter if _is_seen(letter) else "".join(f"\\x{byte:02x}" for byte in encode(letter))
