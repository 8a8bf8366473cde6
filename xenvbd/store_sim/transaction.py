"""A transaction of the simulated store, with xenstored 4.17's rule for conflicts.

Every node that the transaction reads (a write reads first, and a creation reads the parents) must be as it
was when the transaction ends, or the end is EAGAIN."""
from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass

from xenvbd.store_sim.node import Node, Perms, Refusal
from xenvbd.store_sim.tree import Tree, perms_of

ACCESSED_MAX = 1024         # nodes that a guest's transaction may touch


@dataclass(slots=True)
class Access:
    """A node that the transaction has touched."""

    node: Node | None           # as the transaction sees it
    generation: int | None      # the tree's node when first touched; None: there was none
    perms: Perms | None         # likewise
    modified: bool = False
    exact: bool | None = None   # an event is due at commit: for this very path only, or for those above too


class Transaction:
    """A View that keeps its changes to itself until commit()."""

    def __init__(self, tree: Tree, limited: bool) -> None:
        self.tree = tree
        self.limited = limited
        self.accessed: dict[str, Access] = {}
        self.owned: Counter[int] = Counter()
        self.created = False
        self.failed = False         # it can only end with ENOMEM
        tree.generation += 1

    def get(self, path: str) -> Node | None:
        access = self.accessed.get(path)
        if access is None:
            access = self._touch(path)
        return access.node

    def put(self, path: str, node: Node) -> None:
        access = self.accessed.get(path) or self._touch(path)
        self.tree.generation += 1
        node.generation = self.tree.generation
        access.node, access.modified = node, True

    def delete(self, path: str) -> None:
        self.tree.generation += 1
        access = self.accessed[path]
        access.node, access.modified = None, True

    def count(self, domid: int, change: int) -> None:
        self.owned[domid] += change

    def queue_event(self, path: str, exact: bool) -> None:
        """Have watches fire at commit; an event for those above, too, wins over an exact one."""
        access = self.accessed[path]
        access.exact = exact if access.exact is None else access.exact and exact

    def conflicts(self) -> bool:
        """Whether anything the transaction has seen is different now."""
        for path, access in self.accessed.items():
            node = self.tree.nodes.get(path)
            if access.generation != (node.generation if node else None):
                return True
        return False

    def _touch(self, path: str) -> Access:
        if self.limited and len(self.accessed) >= ACCESSED_MAX:
            self.failed = True
            raise Refusal(errno.ENOSPC)
        node = self.tree.get(path)
        access = Access(node.copy() if node else None, node.generation if node else None, perms_of(node))
        self.accessed[path] = access
        return access
