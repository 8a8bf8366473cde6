"""Trace events carry QEMU's names and cost nothing when off; a guest can neither flood the log nor forge a line."""
import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import trace

PACKAGE = Path(trace.__file__).parent


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    yield
    trace.enable([])


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    kept = Kept()
    trace.logger.addHandler(kept)
    yield kept.records
    trace.logger.removeHandler(kept)


def test_an_event_is_a_record_with_its_name_and_fields(records: list[logging.LogRecord]) -> None:
    trace.enable(["xen_block_*"])
    trace.event("xen_block_connect", disk="web1:xvda", protocol="x86_64-abi", queues=1, event_channels=[7, 8])
    [record] = records
    assert (record.name, record.event) == ("xenvbd.trace", "xen_block_connect")
    assert record.fields == {"disk": "web1:xvda", "protocol": "x86_64-abi", "queues": 1, "event_channels": [7, 8]}
    assert record.getMessage() == \
        "xen_block_connect disk=web1:xvda protocol=x86_64-abi queues=1 event_channels='[7, 8]'"


def test_an_event_that_is_not_enabled_is_not_written(records: list[logging.LogRecord]) -> None:
    trace.enable(["xen_block_*"])
    trace.event("xen_device_unplug", disk="web1:xvda")
    trace.enable([])
    trace.event("xen_block_connect", disk="web1:xvda")
    assert not records


def test_patterns_are_those_of_the_shell() -> None:
    assert trace.enable(["xen_device_*_state"]) == {"xen_device_backend_state", "xen_device_frontend_state"}
    assert trace.enabled("xen_device_backend_state") and not trace.enabled("xen_block_connect")
    assert trace.enable(["nothing"]) == frozenset()
    assert trace.enable(["*"]) == frozenset(trace.EVENTS)


def test_bytes_of_a_guest_are_shown_escaped(records: list[logging.LogRecord]) -> None:
    trace.enable(["xs_*"])
    trace.event("xs_node_read", path="/a b", value=b"4\n\x1b[31m\xff")
    assert records[0].getMessage() == r"xs_node_read path='/a b' value='4\n\x1b[31m\xff'"
    assert records[0].fields["value"] == r"'4\n\x1b[31m\xff'"


@pytest.mark.parametrize("name", ["xen_block_connect", "xen_block_disconnect", "xen_device_frontend_state",
                                  "xen_device_backend_changed", "xen_bus_backend_create", "xs_node_watch",
                                  "xen_disk_realize", "xen_cdrom_unrealize", "xen_block_size"])
def test_the_names_are_qemus(name: str) -> None:
    assert name in trace.EVENTS


def calls(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The events that a source writes, with the names of their fields."""
    if path.suffix == ".pyx":       # no syntax tree: the call must stand on one line
        for match in re.finditer(r'\bevent\("(\w+)"([^)\n]*)', path.read_text()):
            yield match[1], re.findall(r"(\w+)=", match[2])
        return
    text = path.read_text()
    names = {"trace.event"} | ({"event"} if re.search(r"from xenvbd\.trace import .*\bevent\b", text) else set())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            assert isinstance(node.args[0], ast.Constant), f"{path.name}: an event's name is a literal"
            yield node.args[0].value, [keyword.arg or "**" for keyword in node.keywords]


def test_every_event_in_the_sources_is_in_the_table_with_its_fields() -> None:
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]:
        for name, fields in calls(path):
            assert name in trace.EVENTS, f"{path.name}: {name} is not in EVENTS"
            assert set(fields) <= {*trace.EVENTS[name]}, f"{path.name}: {name} has no field {fields}"


def test_every_event_of_the_table_is_written_somewhere() -> None:
    written = {name for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")] for name, _ in calls(path)}
    assert written == set(trace.EVENTS), "a pattern could be asked for, and nothing would come of it"


# --- quoting ---

@pytest.mark.parametrize(("value", "shown"), [
    (b"4", "'4'"), (b"", "''"), (b"a\0b", r"'a\x00b'"), (b"it's", '"it\'s"'), ("caf\xe9", r"'caf\xc3\xa9'"),
    (b"x" * 65, "'" + "x" * 64 + "'... (65 bytes)"), ("\udcff", r"'\\udcff'")])
def test_what_a_guest_wrote_is_quoted_and_cut(value: bytes | str, shown: str) -> None:
    assert trace.quote(value) == shown


@given(st.binary() | st.text())
def test_a_quoted_value_is_one_short_line_of_printable_ascii(value: bytes | str) -> None:
    assert re.fullmatch(r"[ -~]{2,290}", trace.quote(value))


# --- formatters ---

def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("xenvbd.x", logging.WARNING, "f.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_line_for_people_has_no_control_characters() -> None:
    formatter = trace.TextFormatter("%(levelname)s %(message)s")
    assert formatter.format(record("a\nforged\x1b[2J line \u202e k\udcf6ln")) == \
        r"WARNING a\nforged\x1b[2J line \u202e k\xf6ln"
    assert formatter.format(record("köln")) == "WARNING köln"


def failed() -> logging.LogRecord:
    try:
        raise ValueError("v")
    except ValueError:
        return record("m", exc_info=sys.exc_info())


def test_a_traceback_keeps_its_lines() -> None:
    assert trace.TextFormatter().format(failed()).endswith("\nValueError: v")
    assert json.loads(trace.JsonFormatter().format(failed()))["traceback"].endswith("ValueError: v")


def test_json_is_one_object_a_line_with_the_message_or_the_event() -> None:
    entry = json.loads(trace.JsonFormatter().format(record("a\nb", created=12.5)))
    assert entry == {"time": 12.5, "level": "warning", "logger": "xenvbd.x", "message": "a\nb"}
    entry = json.loads(trace.JsonFormatter().format(record("m", event="xen_block_size", fields={"sectors": 8})))
    assert (entry["event"], entry["sectors"], "message" in entry) == ("xen_block_size", 8, False)


def test_fields_cannot_replace_what_the_record_says_itself() -> None:
    fields = {"event": "x", "time": 0, "disk": Path("/d")}
    entry = json.loads(trace.JsonFormatter().format(record("m", event="xen_block_size", fields=fields)))
    assert (entry["event"], entry["time"] > 0, entry["disk"]) == ("xen_block_size", True, "/d")


# --- the limiter ---

class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ten_lines_a_minute_are_written_and_the_others_counted(records: list[logging.LogRecord]) -> None:
    clock = Clock()
    limiter = trace.Limiter(clock=clock)
    written = [limiter.log(trace.logger, logging.WARNING, "bad %d", i) for i in range(100)]
    assert written == [True] * 10 + [False] * 90
    clock.now = 60
    assert limiter.log(trace.logger, logging.WARNING, "bad again")
    assert [line.getMessage() for line in records[10:]] == ["lines like the next that were suppressed: 90", "bad again"]
    assert limiter.suppressed == 0


def test_a_limit_of_one_line_still_says_what_was_suppressed(records: list[logging.LogRecord]) -> None:
    clock = Clock()
    limiter = trace.Limiter(1, clock)
    for minute in range(4):
        clock.now = minute * 60
        for _ in range(3):
            limiter.log(trace.logger, logging.WARNING, "bad")
    assert [line.getMessage() for line in records][:2] == ["bad", "lines like the next that were suppressed: 2"]
    assert len(records) == 4


@given(st.lists(st.floats(0, 30), max_size=300))
def test_no_sixty_seconds_ever_have_more_lines_than_allowed(pauses: list[float]) -> None:
    clock, times = Clock(), []
    log = logging.Logger("silent")
    log.handle = lambda record: times.append(clock.now)     # type: ignore[method-assign]
    limiter = trace.Limiter(10, clock)
    for pause in pauses:
        clock.now += pause
        limiter.log(log, logging.WARNING, "bad")
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[10:], strict=False))
