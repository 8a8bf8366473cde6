"""What lets the simulated store come back with its tree after a SIGKILL, as xenstored's live update does.

A file of JSON lines, one for all that a request (or a commit) has changed; a line cut short by the kill is as
if its request had not been made.  Clients' watches and transactions do not survive: clients connect anew."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from xenvbd.store_sim.daemon import Daemon
from xenvbd.store_sim.node import IGNORE, Node, Perm, Perms, join, name_of, parent_of
from xenvbd.store_sim.tree import Tree

COMPACT_BYTES = 8 << 20     # a journal this long is written anew, if that makes it much shorter


class Journal:
    """The journal of one daemon at path; load() once, then record() after each request."""

    def __init__(self, path: Path, daemon: Daemon) -> None:
        self.path = path
        self.daemon = daemon
        self._revision = daemon.revision
        self._file = -1

    def load(self) -> bool:
        """Replay what is there into the (empty) daemon.  False if there is nothing."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        for line in lines:
            for change in json.loads(line):
                _replay(self.daemon, change)
        self.daemon.tree.changed.clear()
        return bool(lines)

    def record(self) -> None:
        """Append what has changed since the last call."""
        changes = self._changes()
        if changes:
            os.write(self._file, json.dumps(changes).encode() + b"\n")
            if os.lseek(self._file, 0, os.SEEK_CUR) > self._limit:
                self.compact()

    def _changes(self) -> list[Any]:
        """In an order that can be replayed: what goes before what comes, each with its parent there."""
        tree = self.daemon.tree
        gone = sorted((path for path, node in tree.changed.items() if node is None), reverse=True)
        come = sorted((path for path, node in tree.changed.items() if node is not None), key=_depth)
        tree.changed.clear()
        changes = [[path] for path in gone] + [self._describe(path) for path in come]
        if self.daemon.revision != self._revision:
            self._revision = self.daemon.revision
            changes.insert(0, self._state())
        return changes

    def compact(self) -> None:
        """Begin a new journal that holds just what there is now."""
        tree = self.daemon.tree
        changes: list[Any] = [self._state()]
        todo = ["/"] if tree.nodes else []
        while todo:
            path = todo.pop()
            changes.append(self._describe(path))
            todo.extend(join(path, name) for name in reversed(tree.nodes[path].children))
        new = self.path.with_suffix(".new")
        new.write_bytes(json.dumps(changes).encode() + b"\n")
        new.rename(self.path)
        self.close()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._limit = max(COMPACT_BYTES, 4 * os.fstat(self._file).st_size)
        self._revision = self.daemon.revision
        tree.changed.clear()

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _describe(self, path: str) -> list[Any]:
        """A node; rights that have lapsed are left out, so that nobody gets them back."""
        node = self.daemon.tree.get(path)
        assert node is not None
        perms = [list(perm) for perm in node.perms if not perm.bits & IGNORE]
        return [path, node.value.decode("latin-1"), perms]

    def _state(self) -> list[Any]:
        """What else there is beside nodes: domains, and who may watch them."""
        domains = self.daemon.domains
        special = [[event, list(map(list, perms))] for event, perms in self.daemon.special.items()]
        return ["domains", sorted(domains.introduced), sorted(domains.targets.items()), special]


def _depth(path: str) -> int:
    return 0 if path == "/" else path.count("/")


def _perms(pairs: list[list[int]]) -> Perms:
    return tuple(Perm(*pair) for pair in pairs)


def _replay(daemon: Daemon, change: list[Any]) -> None:
    match change:
        case ["domains", introduced, targets, special]:
            for domid in daemon.domains.introduced.difference(introduced):
                daemon.domains.forget(domid)
            daemon.domains.know(introduced, daemon.tree.generation)
            daemon.domains.introduced = set(introduced)
            daemon.domains.targets = dict(targets)
            daemon.special = {event: _perms(pairs) for event, pairs in special}
        case [path]:
            _forget(daemon.tree, path)
        case [path, value, pairs]:
            daemon.domains.know((domid for domid, _ in pairs), daemon.tree.generation)
            _restore(daemon.tree, path, Node(value.encode("latin-1"), _perms(pairs)))


def _restore(tree: Tree, path: str, node: Node) -> None:
    old = tree.nodes.get(path)
    if old is not None:
        node.children = old.children
        tree.count(old.perms[0].domid, -1)
    elif path != "/":
        tree.nodes[parent_of(path)].children.append(name_of(path))
    tree.count(node.perms[0].domid, 1)
    tree.put(path, node)


def _forget(tree: Tree, path: str) -> None:
    node = tree.nodes.get(path)
    if node is not None:
        tree.count(node.perms[0].domid, -1)
        tree.nodes[parent_of(path)].children.remove(name_of(path))
        tree.delete(path)
