"""The simulated xenstored without its sockets: who may do what, what it changes, and whom it concerns."""
from __future__ import annotations

import errno

from xenvbd.store_sim.connection import Connection
from xenvbd.store_sim.domains import Domains
from xenvbd.store_sim.faults import Faults
from xenvbd.store_sim.node import ALL, OWNER, READ, Node, Perm, Perms, Refusal, is_valid, name_of, parent_of
from xenvbd.store_sim.transaction import Transaction
from xenvbd.store_sim.tree import Tree, View, leaves_first
from xenvbd.store_sim.watches import Watches

NODES_MAX, NODE_BYTES_MAX = 1000, 2048      # a guest's quota: nodes it owns, size of a node
INTRODUCE, RELEASE = "@introduceDomain", "@releaseDomain"


class Daemon:
    """The tree with its permissions, quotas, watches and domains.  Methods raise Refusal."""

    def __init__(self) -> None:
        self.domains = Domains()
        self.tree = Tree(self.domains)
        self.watches = Watches()
        self.special: dict[str, Perms] = {INTRODUCE: (Perm(0, 0),), RELEASE: (Perm(0, 0),)}
        self.connections: set[Connection] = set()
        self.faults = Faults()
        self.revision = 0       # grows when anything but the tree changes that has to survive

    # Permissions

    def rights(self, connection: Connection, perms: Perms) -> int:
        """What a client may do with a node of these permissions."""
        who = {connection.domid, self.domains.targets.get(connection.domid, connection.domid)}
        if connection.privileged or perms[0].domid in who:
            return ALL
        for perm in self.domains.expire(perms, self.tree.generation)[1:]:
            if perm.domid in who and perm.bits <= ALL:
                return perm.bits
        return perms[0].bits

    def find(self, connection: Connection, view: View, path: str, want: int) -> Node:
        """The node at path.  Raises ENOENT, or EACCES if the client may not even know; EINVAL for no path."""
        if not is_valid(path):
            raise Refusal(errno.EINVAL)
        node = view.get(path)
        if node is not None and self.rights(connection, node.perms) & want == want:
            return node
        allowed = self._rights_above(connection, view, path)
        raise Refusal(errno.ENOENT if node is None and allowed & want else errno.EACCES)

    def _rights_above(self, connection: Connection, view: View, path: str) -> int:
        """What a client may do with the nearest directory above path that exists."""
        node = None
        while node is None:
            path = parent_of(path)
            node = view.get(path)
        return self.rights(connection, node.perms)

    # Changes

    def write(self, connection: Connection, view: View, path: str, node: Node, value: bytes) -> None:
        """Give a node another value."""
        self._check_size(connection, view, node.size(value))
        node.value = value
        view.put(path, node)

    def create(self, connection: Connection, view: View, path: str, value: bytes) -> None:
        """Make a node and the directories that are missing above it.

        They get the permissions of the nearest directory that exists; what a guest makes is the guest's."""
        missing = [path]
        while (parent := view.get(parent_of(missing[-1]))) is None:
            missing.append(parent_of(missing[-1]))
        if isinstance(view, Transaction):
            view.created = True
        owner = parent.perms[0] if connection.privileged else Perm(connection.domid, parent.perms[0].bits)
        new = {each: Node(b"", (owner, *parent.perms[1:])) for each in missing}
        new[path].value = value
        for above, below in zip(missing[1:], missing, strict=False):
            new[above].children.append(name_of(below))
        self._check_quota(connection, view, len(new), owner.domid)
        for size in (*(node.size() for node in new.values()), parent.size(child=name_of(missing[-1]))):
            self._check_size(connection, view, size)
        for each, node in new.items():
            view.put(each, node)
            view.count(owner.domid, 1)
        parent.children.append(name_of(missing[-1]))
        view.put(parent_of(missing[-1]), parent)

    def remove(self, view: View, path: str) -> None:
        """Remove a node and all below it; watches below fire for themselves, those above for path.

        A transaction may have read a directory and its child at different times, so that they do not fit:
        EINVAL or EIO; it would end with EAGAIN anyway."""
        if view.get(parent_of(path)) is None:
            raise Refusal(errno.EINVAL)
        for each, node in leaves_first(view, path):
            view.delete(each)
            self.fire(view, each, exact=each != path, node=node)
            view.count(node.perms[0].domid, -1)
            self._remove_from_parent(view, each)

    def _remove_from_parent(self, view: View, path: str) -> None:
        parent = view.get(parent_of(path))
        if parent is None or name_of(path) not in parent.children:
            raise Refusal(errno.EIO)
        parent.children.remove(name_of(path))
        view.put(parent_of(path), parent)

    def set_perms(self, connection: Connection, view: View, path: str, perms: Perms) -> None:
        """Give a node other permissions; a guest cannot give a node away."""
        node = self.find(connection, view, path, ALL & ~READ)
        if not connection.privileged and perms[0].domid != node.perms[0].domid:
            raise Refusal(errno.EPERM)
        old, node.perms = node.perms, perms
        view.count(old[0].domid, -1)
        view.count(perms[0].domid, 1)
        view.put(path, node)
        self.fire(view, path, old=old)

    def _check_quota(self, connection: Connection, view: View, more: int, owner: int) -> None:
        if connection.privileged:
            return
        # Within a transaction the nodes are counted at its end.
        more = 1 if isinstance(view, Transaction) else more
        if self.domains.entries[owner] + more > NODES_MAX:
            raise Refusal(errno.ENOSPC)

    def _check_size(self, connection: Connection, view: View, size: int) -> None:
        if connection.privileged or size < NODE_BYTES_MAX:
            return
        if isinstance(view, Transaction):
            view.failed = True
        raise Refusal(errno.ENOSPC)

    # Transactions

    def commit(self, connection: Connection, transaction: Transaction) -> None:
        """Make a transaction's changes everybody's.  Raises EAGAIN, ENOSPC, ENOMEM, with nothing changed."""
        if transaction.failed:
            raise Refusal(errno.ENOMEM)
        if transaction.created and not connection.privileged:
            for domid, change in transaction.owned.items():
                if domid and self.domains.entries[domid] + change >= NODES_MAX:
                    raise Refusal(errno.ENOSPC)
        if self.faults.conflict() or transaction.conflicts():
            raise Refusal(errno.EAGAIN)
        for path, access in transaction.accessed.items():
            if access.modified:
                self._apply(path, access.node)
            if access.exact is not None:
                self.fire(self.tree, path, exact=access.exact, old=access.perms)
        self.domains.entries.update(transaction.owned)

    def _apply(self, path: str, node: Node | None) -> None:
        if node is not None:
            self.tree.put(path, node)
        elif path in self.tree.nodes:
            self.tree.delete(path)

    # Watches

    def fire(self, view: View, path: str, *, exact: bool = False, node: Node | None = None,
             old: Perms | None = None) -> None:
        """Tell watchers that path has changed, or remember to at commit.

        They are told of what they can read, or list, or could read before.  node: what was just removed."""
        if isinstance(view, Transaction):
            view.queue_event(path, exact)
            return
        for watch in self.watches.concerned(path, exact):
            if self._may_know(watch.connection, path, node or self.tree.get(path), old):
                watch.connection.event(watch.event_path(path), watch.token)

    def _may_know(self, connection: Connection, path: str, node: Node | None, old: Perms | None) -> bool:
        if old is not None and self.rights(connection, old) & READ:
            return True
        if node is None:
            return False
        parent = self.tree.get(parent_of(path))
        return bool(self.rights(connection, node.perms) & READ
                    or (parent is not None and self.rights(connection, parent.perms) & READ))

    def fire_special(self, event: str) -> None:
        """Tell those who may know that a domain has come or gone."""
        for watch in self.watches.concerned(event, exact=True):
            if self.rights(watch.connection, self.special[event]) & READ:
                watch.connection.event(event, watch.token)

    # Clients and domains

    def disconnect(self, connection: Connection) -> None:
        """The client has gone, with its watches and transactions."""
        self.reset(connection)
        self.connections.discard(connection)

    def reset(self, connection: Connection) -> None:
        """Forget a client's watches and transactions."""
        connection.transactions.clear()
        for watch in self.watches.of(connection):
            self.watches.remove(watch)

    def introduce(self, domid: int) -> None:
        """Serve a domain; if it is served already, its clients begin anew."""
        if domid not in self.domains.introduced:
            self.revision += 1
            self.domains.know([domid], self.tree.generation)
            self.domains.introduced.add(domid)
            self.fire_special(INTRODUCE)
        for connection in self.clients(domid):
            self.reset(connection)

    def release(self, domid: int) -> None:
        """The domain is gone: what it owns goes, and its rights.  Its connections are the caller's to end."""
        for connection in self.clients(domid):
            self.disconnect(connection)
        for path in self.tree.owned_by(domid):
            self.remove(self.tree, path)
        for event, perms in self.special.items():
            kept = tuple(perm for perm in perms[1:] if perm.domid != domid)
            self.special[event] = (perms[0]._replace(domid=0) if perms[0].domid == domid else perms[0], *kept)
        self.domains.forget(domid)
        self.revision += 1
        self.fire_special(RELEASE)

    def clients(self, domid: int) -> list[Connection]:
        """The connections of a domain."""
        return [each for each in self.connections if each.domid == domid]

    def set_special_perms(self, connection: Connection, event: str, perms: Perms) -> None:
        """Say who may watch a special event."""
        if event not in self.special:
            raise Refusal(errno.EINVAL)
        if not self.rights(connection, self.special[event]) & OWNER:
            raise Refusal(errno.EACCES)
        self.special[event] = perms
        self.revision += 1

    def set_target(self, domid: int, target: int) -> None:
        """Let a stub domain act for its guest."""
        self.domains.targets[domid] = target
        self.revision += 1
