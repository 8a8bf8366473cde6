"""Fuzz targets in Python: what a guest, a client of the control socket or a dead worker can have parsed.

Each takes bytes.  An OSError is a refusal, as it should be; anything else that is raised is a finding, and so is a
result that breaks the property stated.  They are run by fuzz (with atheris), and by tests/test_fuzz.py (hypothesis).
"""
from __future__ import annotations

import functools
import json
import os
from types import SimpleNamespace

from xenvbd import features, journal, target, units, vdev, wire, xenbus
from xenvbd.control import _request
from xenvbd.errors import PropertyError, StoreError
from xenvbd.lookup import Lookup
from xenvbd.names import Names
from xenvbd.properties import DiskFacts, Properties, validate
from xenvbd.text import as_json, cut, decode, encode, printable, quoted, valid, width
from xenvbd.trace import quote
from xenvbd.verbs import Verbs

PROPERTIES = Properties(domid=3, vdev=vdev.parse("xvda"), target=target.parse("/dev/null"), max_queues=4)
NAMES = ["ring-ref", "ring-page-order", "num-ring-pages", "event-channel", "protocol", "feature-persistent",
         "multi-queue-num-queues", "feature-large-sector-size", *(f"ring-ref{i}" for i in range(16)),
         *(f"queue-{q}/{name}" for q in range(4) for name in ("ring-ref", "ring-ref0", "ring-ref1", "event-channel"))]
BACKEND = ["frontend", "frontend-id", "params", "mode", "device-type", "discard-enable", "online", "state"]


def nodes(data: bytes, names: list[str]) -> dict[str, bytes]:
    """Node values from the input: each is the number of a name, a length, and so many bytes."""
    found, at = {}, 0
    while at + 2 <= len(data):
        length = data[at + 1]
        found[names[data[at] % len(names)]] = data[at + 2:at + 2 + length]
        at += 2 + length
    return found


def frontend(data: bytes) -> None:
    """The frontend's area.  What is agreed on lies within what was offered."""
    area = nodes(data, NAMES)
    for value in area.values():
        assert "\n" not in quote(value) and quote(value).isprintable()
        xenbus.parse_state(value)
    agreement = features.read_agreement(area.get, PROPERTIES)
    assert 1 <= len(agreement.queues) <= 4 and agreement.abi in ("x86_32-abi", "x86_64-abi")
    for queue in agreement.queues:
        assert len(queue.ring_refs) in (1, 2, 4, 8, 16) and 1 <= queue.event_channel < 1 << 32
        assert all(1 <= gref < 1 << 32 for gref in queue.ring_refs)
    assert features.Agreement.from_json(json.loads(json.dumps(agreement.to_json()))) == agreement


def backend(data: bytes) -> None:
    """A backend area, as a toolstack might write it."""
    area = {"frontend": b"/local/domain/3/device/vbd/51712", "frontend-id": b"3", "params": b"aio:/x",
            "mode": b"w"} | nodes(data, BACKEND)
    properties = features.read_properties(area.get, 0, "qdisk", 3, 51712)
    assert properties.domid == 3 and properties.vdev.number == 51712
    validate(properties, DiskFacts(1 << 30))


def words(data: bytes) -> None:
    """Names, numbers and targets as people write them: what is understood can be written and read again."""
    text = decode(data)
    assert encode(text) == data and printable(quoted(text)) == quoted(text) and json.loads(as_json(text)) == valid(text)
    assert width(cut(printable(text), 9)) <= 9
    for parse in (vdev.parse, units.parse_size, units.parse_duration, units.parse_rate, target.parse,
                  target.parse_diskspec):
        try:
            value = parse(text)
        except PropertyError:
            continue
        if parse is vdev.parse:
            assert vdev.parse(value.name) == value and vdev.from_number(value.number).number == value.number
        elif parse is units.parse_size:
            assert units.parse_size(units.format_size(value)) == value
        elif parse is target.parse:
            assert target.parse(str(value)) == value
    target.parse_params(data)


class _Store:
    """A xenstore without anything in it."""

    def read(self, path: str, tx: int = 0) -> bytes:
        path.encode()
        raise StoreError(2, "none", path=path)

    def get(self, path: str, default: bytes | None = None, tx: int = 0) -> bytes | None:
        path.encode()
        return b"web1" if path.endswith("/3/name") else default

    def exists(self, path: str, tx: int = 0) -> bool:
        return False

    def ls(self, path: str, tx: int = 0) -> list[str]:
        return ["0", "3"] if path == "/local/domain" else []

    def is_introduced(self, domid: int) -> bool:
        return domid == 3

    def dispatch(self) -> int:
        return 0


class _Backend:
    """As much of a backend as a request is parsed with."""

    kinds, workers = ("qdisk",), SimpleNamespace(running=0, by_domid={})

    def __init__(self) -> None:
        self.store, self.devices = _Store(), {}
        self.names = Names(self.store, lambda domid: None)  # type: ignore[arg-type]
        self.lookup = Lookup(self.store, self.names, {})  # type: ignore[arg-type]
        options = SimpleNamespace(engine="auto", buffer_bytes=1 << 20, applied=lambda properties: properties)
        self.host = SimpleNamespace(options=lambda *names: options)

    def served(self, domid: int) -> list[object]:
        return []

    def find(self, text: str) -> object:
        return self.lookup.disk(text)

    def create(self, properties: Properties, engine: str) -> object:
        if properties.target is not None:
            validate(properties, DiskFacts(1 << 30))
        raise PropertyError(2, "none is made here")


def control(data: bytes) -> None:
    """A line of the control socket, and the verb's parameters."""
    _, verb, params = _request(data)
    verbs = Verbs(_Backend(), lambda: None)  # type: ignore[arg-type]
    verbs.dispatch(verb, params, lambda result: None)


def message(data: bytes) -> None:
    """A message between manager and worker."""
    assert isinstance(wire._parse(data, 0), dict)


ENTRIES, SLOTS, SLOT = 32, 4096, 128         # of the journal; see include/xenvbd/journal.h
IDENTITY = journal.Identity(domid=7, devid=51712, queue=0, evtchn=9, abi=2, ring_refs=(100,), image_dev=1, image_ino=2)


@functools.cache
def file_of_a_journal() -> int:
    """A file whose bytes the inputs change."""
    return os.memfd_create("journal")


def damaged(data: bytes) -> None:
    """A journal as a dead worker may have left it: refused, or put in order, and what is left agrees with its indices.

    The input: the file's length in units of 32 bytes, then changes to a good one: where (2 bytes), how many, bytes."""
    fd = file_of_a_journal()
    journal.Journal.create(fd, IDENTITY, ENTRIES, index=5)
    at = 1
    while at + 3 <= len(data):
        where, length = int.from_bytes(data[at:at + 2], "little") % (SLOTS + ENTRIES * SLOT), data[at + 2]
        os.pwrite(fd, data[at + 3:at + 3 + length], where)
        at += 3 + length
    if data and data[0]:
        os.ftruncate(fd, data[0] * 32)
    version, writer = journal.version_of(fd)
    assert (version, writer) == (0, "") or journal.Journal.begun(fd)
    assert journal.is_failed(f"/proc/self/fd/{fd}") in (False, True)
    found = journal.Journal.open(fd, IDENTITY, ENTRIES)
    left = found.reconcile()
    assert left == (found.req_cons - found.rsp_prod) % (1 << 32) == len(found.pending()) == found.reconcile()


TARGETS = {target.__name__: target for target in (frontend, backend, words, control, message, damaged)}


def run(name: str, data: bytes) -> None:
    """One input: an OSError is an answer; what a guest had a part in can be logged as it is."""
    try:
        TARGETS[name](data)
    except OSError as exc:
        assert name not in ("frontend", "backend") or str(exc).isprintable(), str(exc)
