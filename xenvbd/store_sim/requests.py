"""The requests of the xenstore protocol (xenstore.txt, xs_wire.h), as the simulated store answers them."""
from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from pyxs._internal import Op

from xenvbd.store_sim.connection import PAYLOAD_MAX, Connection
from xenvbd.store_sim.daemon import Daemon
from xenvbd.store_sim.domains import SELF
from xenvbd.store_sim.node import IGNORE, READ, WRITE, Perm, Refusal, is_valid, parent_of, parse_perms
from xenvbd.store_sim.request import Request, number
from xenvbd.store_sim.transaction import Transaction
from xenvbd.store_sim.watches import Watch

RESET_WATCHES, DIRECTORY_PART = 21, 22      # xs_wire.h; pyxs's Op ends before them
WATCHES_MAX, TRANSACTIONS_MAX, PERMS_MAX = 128, 10, 5   # a guest's quota; one more of the first two passes
OK = b"OK\0"
# The errors that have a name on the wire; xenstored sends EINVAL for any other.
NAMES = {code: errno.errorcode[code].encode() + b"\0" for code in (
    errno.EINVAL, errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOMEM, errno.ENOSPC,
    errno.EIO, errno.ENOTEMPTY, errno.ENOSYS, errno.EROFS, errno.EBUSY, errno.EAGAIN, errno.EISCONN,
    errno.E2BIG, errno.EPERM)}


def directory(request: Request) -> bytes:
    return request.daemon.find(request.connection, request.view, request.path(), READ).child_list()


def directory_part(request: Request) -> bytes:
    path, offset = request.strings(2)[:2]
    node = request.daemon.find(request.connection, request.view, request.connection.absolute(path), READ)
    generation = b"%d\0" % node.generation
    names = node.child_list()[number(offset):]
    room = PAYLOAD_MAX - len(generation) - 1
    if len(names) < room:
        return generation + names + b"\0"
    return generation + names[:names.rindex(b"\0", 0, room) + 1]


def read(request: Request) -> bytes:
    return request.daemon.find(request.connection, request.view, request.path(), READ).value


def get_perms(request: Request) -> bytes:
    node = request.daemon.find(request.connection, request.view, request.path(), READ)
    return "".join(f"{perm}\0" for perm in node.perms).encode()


def write(request: Request) -> bytes:
    path = request.connection.absolute(request.strings(1)[0])
    value = request.payload.partition(b"\0")[2]
    _store(request, path, value)
    return OK


def mkdir(request: Request) -> bytes:
    _store(request, request.path(), None)
    return OK


def _store(request: Request, path: str, value: bytes | None) -> None:
    """Create a node, or give it a value; None leaves one that exists alone."""
    daemon, connection, view = request.daemon, request.connection, request.view
    try:
        node = daemon.find(connection, view, path, WRITE)
    except Refusal as refusal:
        if refusal.errno != errno.ENOENT:
            raise
        daemon.create(connection, view, path, value or b"")
    else:
        if value is None:
            return
        daemon.write(connection, view, path, node, value)
    daemon.fire(view, path)


def rm(request: Request) -> bytes:
    path = request.path()
    try:
        request.daemon.find(request.connection, request.view, path, WRITE)
    except Refusal as refusal:
        if refusal.errno != errno.ENOENT or request.view.get(parent_of(path)) is None:
            raise
        return OK
    if path == "/":
        raise Refusal(errno.EINVAL)
    request.daemon.remove(request.view, path)
    return OK


def set_perms(request: Request) -> bytes:
    path, *strings = request.strings(2)
    if not request.connection.privileged and len(strings) > PERMS_MAX:
        raise Refusal(errno.ENOSPC)
    perms = parse_perms(strings)
    domains = request.daemon.domains
    domains.know((perm.domid for perm in perms), request.daemon.tree.generation)
    if not domains.is_known(perms[0].domid):
        raise Refusal(errno.ENOENT)
    perms = tuple(perm if domains.is_known(perm.domid) else Perm(perm.domid, perm.bits | IGNORE)
                  for perm in perms)
    if path.startswith("@"):
        request.daemon.set_special_perms(request.connection, path, perms)
    else:
        request.daemon.set_perms(request.connection, request.view, request.connection.absolute(path), perms)
    return OK


def watch(request: Request) -> bytes:
    connection, watches = request.connection, request.daemon.watches
    given, token = request.strings(2)[:2]
    path = connection.absolute(given)
    if not given.startswith("@") and not is_valid(path):
        raise Refusal(errno.EINVAL)
    if watches.find(connection, path, token):
        raise Refusal(errno.EEXIST)
    if not connection.privileged and watches.per_domain[connection.domid] > WATCHES_MAX:
        raise Refusal(errno.E2BIG)
    relative = given[:1] not in ("/", "@")
    new = Watch(connection, path, token, connection.base if relative else "")
    watches.add(new)
    request.then = lambda: connection.event(new.event_path(path), token)
    return OK


def unwatch(request: Request) -> bytes:
    path, token = request.strings(2)[:2]
    watches = request.daemon.watches
    found = watches.find(request.connection, request.connection.absolute(path), token)
    if found is None:
        raise Refusal(errno.ENOENT)
    watches.remove(found)
    return OK


def reset_watches(request: Request) -> bytes:
    request.daemon.reset(request.connection)
    return OK


def transaction_start(request: Request) -> bytes:
    connection = request.connection
    if request.tx:
        raise Refusal(errno.EBUSY)
    if not connection.privileged and len(connection.transactions) > TRANSACTIONS_MAX:
        raise Refusal(errno.ENOSPC)
    return b"%d\0" % connection.begin(Transaction(request.daemon.tree, not connection.privileged))


def transaction_end(request: Request) -> bytes:
    verdict = request.only()
    if verdict not in ("T", "F"):
        raise Refusal(errno.EINVAL)
    transaction = request.connection.transactions.pop(request.tx, None)
    if transaction is None:
        raise Refusal(errno.ENOENT)
    if verdict == "T":
        request.daemon.commit(request.connection, transaction)
    return OK


def introduce(request: Request) -> bytes:
    domid, _, port = request.strings(3)[:3]
    if number(port) <= 0:
        raise Refusal(errno.EINVAL)
    request.daemon.introduce(number(domid))
    return OK


def release(request: Request) -> bytes:
    request.daemon.release(request.domid())
    return OK


def resume(request: Request) -> bytes:
    request.domid()
    return OK


def set_target(request: Request) -> bytes:
    domid, target = (request.served(number(text)) for text in request.strings(2)[:2])
    request.daemon.set_target(domid, target)
    return OK


def get_domain_path(request: Request) -> bytes:
    return b"/local/domain/%d\0" % number(request.only())


def is_domain_introduced(request: Request) -> bytes:
    domid = number(request.only())
    return b"T\0" if domid == SELF or domid in request.daemon.domains.introduced else b"F\0"


def control(request: Request) -> bytes:
    """xenstored leaves its control commands to the implementation; ours has "fault": see Faults."""
    command, *words = request.strings(1)
    if command != "fault":
        raise Refusal(errno.EINVAL)
    request.daemon.faults.set(words)
    return OK


class Handler(NamedTuple):
    """How a request is answered: by what, for dom0 only, whatever the transaction id says."""

    answer: Callable[[Request], bytes]
    privileged: bool = False
    ignores_transaction: bool = False


HANDLERS: dict[int, Handler] = {
    Op.DEBUG: Handler(control, privileged=True),
    Op.DIRECTORY: Handler(directory),
    Op.READ: Handler(read),
    Op.GET_PERMS: Handler(get_perms),
    Op.WATCH: Handler(watch, ignores_transaction=True),
    Op.UNWATCH: Handler(unwatch, ignores_transaction=True),
    Op.TRANSACTION_START: Handler(transaction_start),
    Op.TRANSACTION_END: Handler(transaction_end),
    Op.INTRODUCE: Handler(introduce, privileged=True),
    Op.RELEASE: Handler(release, privileged=True),
    Op.GET_DOMAIN_PATH: Handler(get_domain_path),
    Op.WRITE: Handler(write),
    Op.MKDIR: Handler(mkdir),
    Op.RM: Handler(rm),
    Op.SET_PERMS: Handler(set_perms),
    Op.IS_DOMAIN_INTRODUCED: Handler(is_domain_introduced, privileged=True),
    Op.RESUME: Handler(resume, privileged=True),
    Op.SET_TARGET: Handler(set_target, privileged=True),
    RESET_WATCHES: Handler(reset_watches),
    DIRECTORY_PART: Handler(directory_part),
}


def refuse(connection: Connection, code: int, op: int, request: int, tx: int, payload: bytes) -> None:
    """Answer one request with an error, and do nothing; a transaction that was to end is over."""
    if op == Op.TRANSACTION_END:
        connection.transactions.pop(tx, None)
    connection.reply(Op.ERROR, request, tx, NAMES[code])


def handle(daemon: Daemon, connection: Connection, op: int, request: int, tx: int, payload: bytes) -> None:
    """Carry out one request and queue its answer."""
    todo = Request(daemon, connection, payload, tx, daemon.tree)
    try:
        answer = _answer(todo, op)
        if len(answer) > PAYLOAD_MAX:
            raise Refusal(errno.E2BIG)
    except Refusal as refusal:
        op, answer = Op.ERROR, NAMES[refusal.errno]
    connection.reply(op, request, tx, answer)
    if todo.then is not None:
        todo.then()


def _answer(request: Request, op: int) -> bytes:
    handler = HANDLERS.get(op)
    if handler is None:
        raise Refusal(errno.ENOSYS)
    if handler.privileged and not request.connection.privileged:
        raise Refusal(errno.EACCES)
    if request.tx and not handler.ignores_transaction:
        transaction = request.connection.transactions.get(request.tx)
        if transaction is None:
            raise Refusal(errno.ENOENT)
        request.view = transaction
    return handler.answer(request)
