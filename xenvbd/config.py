"""The daemon's configuration: a TOML file read into frozen values, and written out again (--dump-config).

Every key stands in one table with its type, so that an unknown key or a wrong value is an error that names the
file, the key, what was found and what was expected."""
from __future__ import annotations

import errno
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from xenvbd import hv, properties, target, trace, units
from xenvbd.errors import PropertyError
from xenvbd.properties import Properties

DEFAULT_PATH = "/etc/xenvbd/xenvbd.toml"
MIB = 1 << 20
MAX_SOCKET = 107                # bytes of a path that a UNIX socket can have
CLAIMABLE = tuple(sorted(target.KINDS.values()))


# --- the types of values ---

@dataclass(frozen=True)
class Kind:
    """A type of value: what is expected, in words; from TOML (ValueError if it is not that); and to TOML."""

    expected: str
    read: Callable[[Any], Any]
    write: Callable[[Any], str]


def _insist(good: bool) -> None:
    if not good:
        raise ValueError


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _text(value: Any) -> str:
    _insist(isinstance(value, str) and value != "")
    return str(value)


def _choice(*choices: str) -> Kind:
    def read(value: Any) -> str:
        _insist(value in choices)
        return str(value)
    return Kind(" or ".join(f'"{choice}"' for choice in choices), read, _quoted)


def _machine(value: Any) -> str:
    text = _text(value)
    _insist(hv.is_machine(text))
    return text


def _integer(low: int, high: int) -> Kind:
    def read(value: Any) -> int:
        _insist(type(value) is int and low <= value <= high)
        return int(value)
    return Kind(f"a number from {low} to {high}", read, str)


def _boolean(value: Any) -> bool:
    _insist(type(value) is bool)
    return bool(value)


def _strings(value: Any) -> tuple[str, ...]:
    _insist(type(value) is list)
    return tuple(_text(item) for item in value)


def _kinds(value: Any) -> tuple[str, ...]:
    found = _strings(value)
    _insist(found != () and set(found) <= set(CLAIMABLE))
    return found


def _patterns(value: Any) -> tuple[str, ...]:
    found = _strings(value)
    _insist(all(map(trace.matches, found)))
    return found


def _names(value: Any) -> str:
    """A pattern without a colon, and without what could stand for one, is no disk's."""
    text = _text(value)
    _insist(any(letter in text for letter in ":*?["))
    return text


def _paths(value: Any) -> tuple[str, ...]:
    found = _strings(value)
    _insist(all(path.startswith("/") for path in found))
    return found


def _path(value: Any) -> str:
    return _paths([value])[0]


def _places(value: Any) -> tuple[str, ...]:
    """Without "..": no target has it in its path, so nothing would be allowed."""
    found = _paths(value)
    _insist(all(".." not in path.split("/") and "\0" not in path for path in found))
    return found


def _socket_path(value: Any) -> str:
    path = _path(value)
    _insist(len(os.fsencode(path)) <= MAX_SOCKET)
    return path


def _runtime(value: Any) -> str:
    """A directory for the sockets of workers."""
    path = _path(value)
    _insist(len(os.fsencode(path)) <= MAX_SOCKET - len("/worker-32751.sock"))
    return path


def _size(low: int, high: int) -> Kind:
    def read(value: Any) -> int:
        size = value if type(value) is int else units.parse_size(_text(value))
        _insist(low <= size <= high)
        return int(size)
    return Kind(f'a size from "{units.format_size(low)}" to "{units.format_size(high)}"', read,
                lambda value: _quoted(units.format_size(value)))


def _duration(value: Any) -> float:
    seconds = units.parse_duration(_text(value))
    _insist(seconds > 0)
    return seconds


def _or(word: str, inner: Kind) -> Kind:
    """The inner type, or a word for None."""
    return Kind(f'{inner.expected} or "{word}"',
                lambda value: None if value == word else inner.read(value),
                lambda value: f'"{word}"' if value is None else inner.write(value))


def _switch(value: Any) -> bool:
    _insist(value in ("on", "off"))
    return bool(value == "on")


SWITCH = Kind('"on" or "off"', _switch, lambda value: '"on"' if value else '"off"')
BOOLEAN = Kind("true or false", _boolean, lambda value: str(value).lower())
TEXT = Kind("a text", _text, _quoted)
MACHINE = Kind(hv.EXPECTED, _machine, _quoted)
DURATION = Kind('a duration above 0, like "8s"', _duration, lambda value: _quoted(units.format_duration(value)))


def _array(value: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_quoted, value)) + "]"


PATTERNS = Kind('a list of patterns that match events, like ["xen_block_*"]', _patterns, _array)
KINDS = Kind(f"a list of kinds, which are {', '.join(CLAIMABLE)}", _kinds, _array)
SOCKET = Kind(f"an absolute path of at most {MAX_SOCKET} bytes", _socket_path, _quoted)
RUNTIME = Kind(f"an absolute path of at most {MAX_SOCKET - 18} bytes", _runtime, _quoted)
PLACES = Kind('a list of absolute paths without "..", like ["/srv/xen"]', _places, _array)
NAMES = Kind('a pattern of names DOMAIN:VDEV, like "web*:xvda"', _names, _quoted)


def _block_size(high: int) -> Kind:
    number = _integer(properties.SECTOR, high)

    def read(value: Any) -> int:
        size = int(number.read(value))
        _insist(size & (size - 1) == 0)
        return size
    return Kind(f"a power of two from {properties.SECTOR} to {high}", read, str)


def _key(kind: Kind, default: Any, section: str = "", name: str = "", *, reload: bool = False) -> Any:
    """A field that is a key: its section (of a disk's options: none) and its name, if it is not the field's.

    reload: whether a change takes effect when the configuration is read again."""
    return field(default=default, metadata={"kind": kind, "section": section, "name": name, "reload": reload})


# --- what there is to configure ---

@dataclass(frozen=True)
class DiskOptions:
    """How a disk is served.  Under [backend] for all disks, under [[disk]] for those that match."""

    engine: str = _key(_choice("auto", "uring", "threads"), "auto")
    direct_io: bool | None = _key(_or("auto", BOOLEAN), None)
    lock: bool = _key(SWITCH, True)
    discard: bool = _key(BOOLEAN, True)
    barrier: bool = _key(BOOLEAN, False)
    persistent_grants: bool = _key(BOOLEAN, False)
    poll_us: int = _key(_integer(0, properties.MAX_POLL_US), 0)
    rerror: str = _key(_choice(*properties.READ_ERRORS), "report")
    werror: str = _key(_choice(*properties.WRITE_ERRORS), "enospc")
    stall_alarm: float | None = _key(_or("off", DURATION), 30.0)
    queues: int = _key(_integer(1, properties.MAX_QUEUES), 1)
    max_ring_page_order: int = _key(_integer(0, properties.MAX_ORDER), properties.MAX_ORDER)
    max_indirect_segments: int = _key(_integer(0, properties.MAX_INDIRECT), properties.MAX_INDIRECT)
    buffer_bytes: int = _key(_size(2 * MIB, 1 << 34), 16 * MIB)
    logical_block_size: int = _key(_block_size(properties.PAGE), properties.SECTOR)
    physical_block_size: int | None = _key(_or("auto", _block_size(properties.MAX_PHYSICAL)), None)
    large_sector_units: str = _key(_choice("spec", "qemu"), "spec")

    def applied(self, props: Properties) -> Properties:
        """The properties with these options; what a toolstack refused (discard) stays refused."""
        return replace(
            props, direct=self.direct_io, lock=self.lock, discard_enable=self.discard and props.discard_enable,
            barrier=self.barrier, persistent=self.persistent_grants, poll_us=self.poll_us,
            rerror=self.rerror, werror=self.werror, max_queues=self.queues,
            max_ring_page_order=self.max_ring_page_order, max_indirect=self.max_indirect_segments,
            logical_block_size=self.logical_block_size, physical_block_size=self.physical_block_size,
            large_sector_units=self.large_sector_units)


@dataclass(frozen=True)
class DiskRule:
    """One [[disk]]: the pattern of the disks' names (DOMAIN:VDEV) that it is for, and its options by field."""

    match: str
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Config:
    """All of the configuration.  open_timeout is in seconds; allow are the places that targets may be in."""

    hypervisor: str = _key(MACHINE, "xen", "backend")
    kinds: tuple[str, ...] = _key(KINDS, ("vbd3",), "backend", reload=True)
    runtime_dir: str = _key(RUNTIME, "/run/xenvbd", "backend")
    socket: str | None = _key(_or("auto", SOCKET), None, "backend")
    open_timeout: float = _key(DURATION, 8.0, "backend", reload=True)        # libxl waits 10 s
    spare_worker: bool = _key(BOOLEAN, True, "backend")
    allow: tuple[str, ...] = _key(PLACES, ("/dev", "/srv", "/var/lib/xen/images"), "targets", reload=True)
    log_level: str = _key(_choice("debug", "info", "warning", "error"), "info", "log", "level")
    trace: tuple[str, ...] = _key(PATTERNS, (), "log")
    options: DiskOptions = DiskOptions()
    disks: tuple[DiskRule, ...] = ()

    @property
    def control(self) -> str:
        """The path of the control socket."""
        return self.socket or os.path.join(self.runtime_dir, "control.sock")

    def late(self, changed: Config) -> list[str]:
        """The keys, with their sections, that are changed and take effect when the daemon is restarted."""
        return [f"[{section}] {name}" for section, keys in SECTIONS.items() for name, (item, _) in keys.items()
                if getattr(self, item) != getattr(changed, item) and not RELOADED[item]]

    def options_of(self, *names: str) -> DiskOptions:
        """The options of a disk that goes by these names: of the first [[disk]] that matches one of them."""
        rule = next((rule for rule in self.disks if any(fnmatchcase(name, rule.match) for name in names)), None)
        return replace(self.options, **dict(rule.options)) if rule else self.options


def _keys(cls: type, section: str) -> dict[str, tuple[str, Kind]]:
    """The keys of one section by name: the field and its kind."""
    return {item.metadata["name"] or item.name.replace("_", "-"): (item.name, item.metadata["kind"])
            for item in fields(cls) if item.metadata and item.metadata["section"] == section}


SECTIONS = {section: _keys(Config, section) for section in ("backend", "targets", "log")}
DISK_KEYS = _keys(DiskOptions, "")
RELOADED: dict[str, bool] = {item.name: item.metadata["reload"] for item in fields(Config) if item.metadata}


# --- reading ---

def load(path: str | None = None) -> Config:
    """The configuration in a file; without a path, in /etc/xenvbd/xenvbd.toml, or the defaults if there is none.

    PropertyError names the file, the key, what was found and what was expected."""
    try:
        with open(path or DEFAULT_PATH, "rb") as file:
            return loads(file.read(), path or DEFAULT_PATH)
    except OSError as error:
        if isinstance(error, PropertyError):
            raise
        if path is None and isinstance(error, FileNotFoundError):
            return Config()
        raise PropertyError(error.errno or errno.EIO, f"cannot read it: {error.strerror}",
                            path=path or DEFAULT_PATH) from error


def loads(text: bytes | str, path: str = "configuration") -> Config:
    """The configuration in a TOML text; path is for messages.  Raises PropertyError."""
    try:
        document = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:             # TOMLDecodeError, UnicodeDecodeError
        raise PropertyError(errno.EINVAL, f"not TOML: {error}", path=path) from error
    _refuse_unknown(document, [*SECTIONS, "disk"], "the file", path)
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for section, keys in SECTIONS.items():
        table = _table(document.get(section, {}), f"[{section}]", path)
        _refuse_unknown(table, [*keys, *(DISK_KEYS if section == "backend" else ())], f"[{section}]", path)
        values |= _values(table, keys, f"[{section}]", path)
        if section == "backend":
            options = _values(table, DISK_KEYS, f"[{section}]", path)
    found = Config(**values, options=DiskOptions(**options), disks=tuple(_rules(document.get("disk", []), path)))
    _check_blocks(found, path)
    return found


def _check_blocks(found: Config, path: str) -> None:
    """Refuse block sizes that do not fit together: each is a value by itself, and no disk could have both."""
    rules = [(f"[[disk]] number {number}", dict(rule.options)) for number, rule in enumerate(found.disks, 1)]
    for where, changes in [("[backend]", {}), *rules]:
        options = replace(found.options, **changes)
        logical, physical = options.logical_block_size, options.physical_block_size
        if physical is not None and logical > physical:
            raise PropertyError(errno.EINVAL, f"{where}: found logical-block-size {logical} and physical-block-size "
                                f"{physical}, expected a physical block that holds whole logical ones", path=path)


def _rules(tables: Any, path: str) -> Iterator[DiskRule]:
    if not isinstance(tables, list):
        raise _wrong("[[disk]]", tables, "tables headed [[disk]]", path)
    for number, item in enumerate(tables, 1):
        where = f"[[disk]] number {number}"
        table = _table(item, where, path)
        _refuse_unknown(table, ["match", *DISK_KEYS], where, path)
        match = _values({"match": table.get("match")}, {"match": ("match", NAMES)}, where, path)["match"]
        yield DiskRule(match, tuple(sorted(_values(table, DISK_KEYS, where, path).items())))


def _values(table: Mapping[str, Any], keys: Mapping[str, tuple[str, Kind]], where: str, path: str) -> dict[str, Any]:
    """The values of the keys that are there, by field."""
    found = {}
    for name, (item, kind) in keys.items():
        if name in table:
            try:
                found[item] = kind.read(table[name])
            except ValueError as error:
                raise _wrong(f"{where} {name}", table[name], kind.expected, path) from error
            except PropertyError as error:
                raise PropertyError(errno.EINVAL, f"{where} {name}: {error.message}", path=path) from error
    return found


def _table(value: Any, where: str, path: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise _wrong(where, value, "a table", path)


def _refuse_unknown(table: Mapping[str, Any], known: list[str], where: str, path: str) -> None:
    for name in table:
        if name not in known:
            raise PropertyError(errno.EINVAL, f"{where} has the unknown key {name!r}: expected one of "
                                f"{', '.join(known)}", path=path)


def _wrong(key: str, found: Any, expected: str, path: str) -> PropertyError:
    shown = "nothing" if found is None else ascii(found)
    return PropertyError(errno.EINVAL, f"{key}: found {shown[:80]}, expected {expected}", path=path)


# --- writing ---

def dump(config: Config) -> str:
    """The configuration as TOML that loads() reads as the same; all keys, also those at their defaults."""
    lines = []
    for section, keys in SECTIONS.items():
        lines += [f"[{section}]", *_lines(config, keys)]
        if section == "backend":
            lines += _lines(config.options, DISK_KEYS)
        lines.append("")
    for rule in config.disks:
        values = dict(rule.options)
        lines += ["[[disk]]", f"match = {_quoted(rule.match)}"]
        lines += [f"{name} = {kind.write(values[item])}" for name, (item, kind) in DISK_KEYS.items() if item in values]
        lines.append("")
    return "\n".join(lines)


def _lines(holder: object, keys: Mapping[str, tuple[str, Kind]]) -> list[str]:
    return [f"{name} = {kind.write(getattr(holder, item))}" for name, (item, kind) in keys.items()]
