"""The simulated store's nodes as everybody sees them, outside transactions."""
from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from xenvbd.store_sim.domains import Domains
from xenvbd.store_sim.node import Node, Perm, Perms, Refusal, join


class View(Protocol):
    """Nodes as one request sees and changes them: the tree itself, or a transaction's copy.

    A node that get() returned may be changed in place, if put() follows."""

    def get(self, path: str) -> Node | None:
        """The node at path, or None."""

    def put(self, path: str, node: Node) -> None:
        """Store a node, new or changed."""

    def delete(self, path: str) -> None:
        """Remove a node that has no children left."""

    def count(self, domid: int, change: int) -> None:
        """Note that a domain owns more or fewer nodes."""


class Tree:
    """The nodes by path.  `changed` is what the journal has not seen yet: a node, or None if removed."""

    def __init__(self, domains: Domains) -> None:
        self.domains = domains
        self.generation = 0
        self.nodes: dict[str, Node] = {}
        self.changed: dict[str, Node | None] = {}

    def plant(self) -> None:
        """Make the nodes that a new xenstored starts with."""
        owner = (Perm(0, 0),)
        self.put("/", Node(b"", owner, ["tool"]))
        self.put("/tool", Node(b"", owner, ["xenstored"]))
        self.put("/tool/xenstored", Node(b"", owner))
        self.domains.entries[0] += 3

    def get(self, path: str) -> Node | None:
        node = self.nodes.get(path)
        if node is not None:
            node.perms = self.domains.expire(node.perms, node.generation)
        return node

    def put(self, path: str, node: Node) -> None:
        self.generation += 1
        node.generation = self.generation
        self.nodes[path] = self.changed[path] = node

    def delete(self, path: str) -> None:
        del self.nodes[path]
        self.changed.pop(path, None)
        self.changed[path] = None

    def count(self, domid: int, change: int) -> None:
        self.domains.entries[domid] += change

    def owned_by(self, domid: int) -> list[str]:
        """The topmost nodes that a domain owns."""
        found, todo = [], ["/"]
        while todo:
            path = todo.pop()
            node = self.nodes[path]
            if node.perms[0].domid == domid:
                found.append(path)
            else:
                todo.extend(join(path, name) for name in reversed(node.children))
        return found


def leaves_first(view: View, path: str) -> Iterator[tuple[str, Node]]:
    """A node and all below it, children before their parents.  Raises Refusal EIO if a child is not there."""
    todo: list[tuple[str, Node | None]] = [(path, None)]
    while todo:
        path, node = todo.pop()
        if node is not None:
            yield path, node
        elif (node := view.get(path)) is None:
            raise Refusal(errno.EIO)
        else:
            todo.append((path, node))
            todo.extend((join(path, name), None) for name in reversed(node.children))


def perms_of(node: Node | None) -> Perms | None:
    """A node's permissions, if there is a node."""
    return None if node is None else node.perms
