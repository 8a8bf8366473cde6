"""One client of the simulated store: what it has sent and not had answered yet, as bytes; no socket."""
from __future__ import annotations

from itertools import count
from struct import Struct

from pyxs._internal import Op

from xenvbd.store_sim.transaction import Transaction

HEADER = Struct("=IIII")    # xsd_sockmsg: type, req_id, tx_id, len
PAYLOAD_MAX = 4096

_order = count()


class BadClient(Exception):
    """The client broke the protocol so that its connection ends."""


class Connection:
    """A client of domain domid: feed() takes its bytes, next_request() gives what is complete."""

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self.order = next(_order)
        self.base = f"/local/domain/{domid}"
        self.transactions: dict[int, Transaction] = {}
        self.output = bytearray()
        self._input = bytearray()
        self._next_transaction = 1
        self._events: set[bytes] = set()    # in output, unsent

    @property
    def privileged(self) -> bool:
        """Whether permissions and quotas do not apply: dom0."""
        return self.domid == 0

    def absolute(self, path: str) -> str:
        """The path a client means: relative ones begin at its own domain's directory."""
        return path if path[:1] in ("/", "@") else f"{self.base}/{path}"

    def feed(self, data: bytes) -> None:
        """Take in bytes from the client."""
        self._input += data

    def next_request(self) -> tuple[int, int, int, bytes] | None:
        """The next complete request: op, request id, transaction id, payload.  Raises BadClient."""
        if len(self._input) < HEADER.size:
            return None
        op, request, tx, size = HEADER.unpack_from(self._input)
        if size > PAYLOAD_MAX:
            raise BadClient
        if len(self._input) < HEADER.size + size:
            return None
        payload = bytes(self._input[HEADER.size:HEADER.size + size])
        del self._input[:HEADER.size + size]
        return op, request, tx, payload

    def put_back(self, request: tuple[int, int, int, bytes]) -> None:
        """Have next_request() return this again."""
        op, number, tx, payload = request
        self._input[:0] = HEADER.pack(op, number, tx, len(payload)) + payload

    def reply(self, op: int, request: int, tx: int, payload: bytes) -> None:
        """Answer a request."""
        self.output += HEADER.pack(op, request, tx, len(payload)) + payload

    def event(self, path: str, token: str) -> None:
        """Tell the client of a change.  One that it has not fetched yet is not told twice."""
        payload = f"{path}\0{token}\0".encode("latin-1")
        if len(payload) > PAYLOAD_MAX or payload in self._events:
            return
        if not path.startswith("@"):
            self._events.add(payload)
        self.output += HEADER.pack(Op.WATCH_EVENT, 0, 0, len(payload)) + payload

    def sent(self, size: int) -> None:
        """So many bytes of the output have gone out."""
        del self.output[:size]
        if not self.output:
            self._events.clear()

    def begin(self, transaction: Transaction) -> int:
        """Give a transaction a number of this connection's own."""
        while self._next_transaction in self.transactions or not self._next_transaction:
            self._next_transaction = (self._next_transaction + 1) & 0xFFFFFFFF
        number = self._next_transaction
        self._next_transaction = (number + 1) & 0xFFFFFFFF
        self.transactions[number] = transaction
        return number
