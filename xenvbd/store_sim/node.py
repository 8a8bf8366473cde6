"""A node of the simulated store: value, permissions, children; and the grammar of paths."""
from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field
from typing import NamedTuple

READ, WRITE, OWNER = 1, 2, 4
ALL = READ | WRITE | OWNER
IGNORE = 16                 # an entry for a domain that was gone when it was last looked at
PATH_MAX = 2048             # bytes, not counting /local/domain/<domid>/
HEADER_BYTES, PERM_BYTES = 24, 8    # what xenstored's quota counts besides a node's own bytes

_LETTERS = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}
_PATH = re.compile(r"/(?:[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*)?")
_LOCAL = re.compile(r"/local/domain/[0-9]{1,5}/")
_PERM = re.compile(r"([nrwb])([0-9]{1,5})")


class Refusal(Exception):
    """A request is answered with this errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.errno = code


class Perm(NamedTuple):
    """What one domain may do with a node; the first of a node names its owner, and what others may do."""

    domid: int
    bits: int

    def __str__(self) -> str:
        bits = self.bits & (READ | WRITE)
        return next(letter for letter, value in _LETTERS.items() if value == bits) + str(self.domid)


Perms = tuple[Perm, ...]


def parse_perms(strings: list[str]) -> Perms:
    """The permissions that strings such as "n0", "r5" stand for.  Raises Refusal EINVAL."""
    matches = [_PERM.fullmatch(string) for string in strings]
    if not matches or not all(matches):
        raise Refusal(errno.EINVAL)
    return tuple(Perm(int(match[2]), _LETTERS[match[1]]) for match in matches if match)


@dataclass(slots=True)
class Node:
    """A node; children keep the order in which they were made, as xenstored lists them."""

    value: bytes
    perms: Perms
    children: list[str] = field(default_factory=list)
    generation: int = 0

    def copy(self) -> Node:
        """The node as a transaction's own, to be changed freely."""
        return Node(self.value, self.perms, list(self.children), self.generation)

    def child_list(self) -> bytes:
        """The children's names, each with its NUL."""
        return "".join(f"{name}\0" for name in self.children).encode()

    def size(self, value: bytes | None = None, child: str | None = None) -> int:
        """Bytes that count against a guest's quota, with another value or one more child if given."""
        names = sum(map(len, self.children)) + len(self.children)
        more = len(child) + 1 if child is not None else 0
        data = len(self.value if value is None else value)
        return HEADER_BYTES + PERM_BYTES * len(self.perms) + data + names + more


def is_valid(path: str) -> bool:
    """Whether path is an absolute path as xenstored takes it."""
    local = _LOCAL.match(path)
    return bool(_PATH.fullmatch(path)) and len(path) <= PATH_MAX + (local.end() if local else 0)


def parent_of(path: str) -> str:
    """The directory of a path; the root's is the root."""
    return path[:path.rindex("/")] or "/"


def name_of(path: str) -> str:
    """The last part of a path."""
    return path[path.rindex("/") + 1:]


def join(directory: str, name: str) -> str:
    """The path of a child."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"
