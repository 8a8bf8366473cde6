"""Targets (/path, null:1G, ...), xl's DISKSPEC, and the toolstack's params node, as frozen values.

What is in an image is never looked at: the format is what was said, and only raw is served (CVE-2008-2004,
CVE-2013-1922)."""
from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from xenvbd import units, vdev
from xenvbd.errors import PropertyError
from xenvbd.text import quoted
from xenvbd.vdev import Vdev

# backendtype of xl-disk-configuration(5) -> the kind of its backend area.  standalone is virtio, not blkif.
KINDS = {"phy": "vbd", "qdisk": "qdisk", "tap": "vbd3"}
# Formats that are not served, and QEMU's names for them.
FOREIGN_FORMATS = {name: name for name in ("qcow", "qcow2", "vpc", "vhdx", "qed", "vmdk", "vdi")} | {"vhd": "vpc"}
MAX_PATH = 4095             # PATH_MAX without its NUL

_SCHEME = re.compile(r"([a-z][a-z0-9+]*):", re.ASCII)
_PREFIX = re.compile(r"(tapdisk|tap2?|aio|ioemu|file|phy|raw|" + "|".join(FOREIGN_FORMATS) + r"):", re.ASCII)
_NAMED = re.compile(r"([A-Za-z][-_A-Za-z0-9]*)=(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Target:
    """What backs a disk: scheme "file" with an absolute path (a regular file or a block device), or scheme
    "null" or "mem" with a size in bytes."""

    scheme: str
    path: str = ""
    size: int = 0

    def __str__(self) -> str:
        """The text that parse() reads as this target."""
        return self.path if self.scheme == "file" else f"{self.scheme}:{units.format_size(self.size)}"


@dataclass(frozen=True)
class DiskSpec:
    """A DISKSPEC.  target is None for an empty drive, vdev None to choose a free one; mode is "r" or "w"; share is
    w!; discard and trusted are None where nothing is said of them.  no-colo asks for what is so, and is not kept."""

    target: Target | None
    vdev: Vdev | None = None
    mode: str = "w"
    share: bool = False
    device_type: str = "disk"
    backend: str | None = None
    backendtype: str | None = None
    script: str | None = None
    direct_io_safe: bool = False
    discard: bool | None = None
    trusted: bool | None = None


def parse(text: str, *, base: str | None = None) -> Target:
    """The target that a text means: /path, file:/path, raw:/path, aio:/path, null:SIZE or mem:SIZE.

    A path that is not absolute is taken from the directory base, or refused if there is none.  PropertyError
    says what is wrong; ENOMEDIUM is its errno if there is no target at all."""
    match = _SCHEME.match(text)
    if not match:
        return _file(text, text, base)
    scheme, rest = match[1], text[match.end():]
    if scheme in ("file", "raw", "aio"):
        return _file(text, rest, base)
    if scheme in ("null", "mem"):
        return _sized(scheme, rest)
    if scheme in FOREIGN_FORMATS:
        raise _foreign(scheme, rest)
    raise PropertyError(errno.EINVAL, f"target {text!r}: unknown scheme {scheme!r}: "
                        "expected /path, file:, raw:, aio:, null:SIZE or mem:SIZE")


def parse_params(params: bytes) -> Target:
    """The target of a toolstack's params node: "/path", or "aio:/path" as libxl writes for a raw qdisk."""
    text = os.fsdecode(params)
    stripped = re.sub(r"\A(aio|raw):", "", text)
    return parse(stripped, base="/dev") if _SCHEME.match(stripped) else _file(text, stripped, "/dev")


def parse_diskspec(text: str) -> DiskSpec:
    """The disk that an xl-disk-configuration(5) string means: positional `target,format,vdev,access`, and
    key=value and flags, of which target= takes the rest.  PropertyError names the parameter that is wrong."""
    values = _scan(text)
    if values.get("format") in FOREIGN_FORMATS:
        raise _foreign(values["format"], values.get("target", ""))
    cdrom = values.get("devtype", "disk") == "cdrom"
    target = None if values.get("format") == "empty" else _diskspec_target(values.get("target", ""))
    return DiskSpec(
        target=target,
        vdev=vdev.parse(values["vdev"]) if values.get("vdev") else None,
        mode="r" if cdrom else _ACCESS[values.get("access", "")],      # whatever access says, as in xl
        share=not cdrom and values.get("access") == "w!",
        device_type="cdrom" if cdrom else "disk",
        backend=values.get("backend") or None,
        backendtype=values.get("backendtype") or None,
        script=values.get("script") or None,
        direct_io_safe="direct-io-safe" in values,
        discard=values["discard"] == "discard" if "discard" in values else None,
        trusted=values["trusted"] == "trusted" if "trusted" in values else None)


def _file(text: str, path: str, base: str | None) -> Target:
    if not path:
        raise PropertyError(errno.ENOMEDIUM, f"target {text!r} names no medium: expected a path")
    if not _is_file_name(path):
        raise PropertyError(errno.EINVAL, f"target {text[:80]!r}: expected a path without NUL of at most "
                            f"{MAX_PATH} bytes")
    if not path.startswith("/"):
        if base is None:
            raise PropertyError(errno.EINVAL, f"target {text!r}: expected an absolute path, "
                                "or file:, raw:, aio:, null:SIZE, mem:SIZE")
        path = os.path.join(base, path)
    return Target("file", path=path)


def _is_file_name(path: str) -> bool:
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:      # a lone surrogate, from JSON
        return False
    return b"\0" not in name and len(name) <= MAX_PATH


def _sized(scheme: str, text: str) -> Target:
    try:
        size = units.parse_size(text)
    except PropertyError as exc:
        raise PropertyError(errno.EINVAL, f"target {f'{scheme}:{text}'!r}: {exc.message}") from None
    if size == 0 or size % 512:
        raise PropertyError(errno.EINVAL, f"target {scheme}:{text}: expected a multiple of 512 bytes")
    return Target(scheme, size=size)


def _foreign(name: str, path: str) -> PropertyError:
    return PropertyError(
        errno.ENOTSUP, f"format {name} is not served, only raw is: {other_way(FOREIGN_FORMATS[name], path)}")


def other_way(name: str, path: str) -> str:
    """What an administrator can do with an image of a format that QEMU calls so: the end of a sentence."""
    file, raw = quoted(path or "FILE"), quoted(f"{path or 'FILE'}.raw")
    return (f"run `qemu-nbd --connect=/dev/nbd0 --format={name} {file}` and attach /dev/nbd0, or "
            f"`qemu-img convert -f {name} -O raw {file} {raw}` and attach {raw}")


# --- DISKSPEC ---

_POSITIONAL = ("target", "format", "vdev", "access")
_FLAGS = {"cdrom": "devtype", "direct-io-safe": "direct-io-safe", "discard": "discard",
          "no-discard": "discard", "trusted": "trusted", "untrusted": "trusted", "no-colo": "no-colo"}
_ACCESS = {"": "w", "w": "w", "rw": "w", "w!": "w", "r": "r", "ro": "r"}
_CHOICES = {"access": tuple(_ACCESS), "devtype": ("cdrom", "disk"), "specification": ("xen",),
            "backendtype": ("", *KINDS)}
_NAMES = (*_POSITIONAL, *_CHOICES, "backend", "script")


def _scan(text: str) -> dict[str, str]:
    """The parameters by name; flags by the name in _FLAGS."""
    values: dict[str, str] = {}
    rest = text
    while rest := rest.lstrip(" \t\n"):
        if rest.startswith("target="):
            # xl drops one comma at the end, so we do.
            _set(values, "target", rest.removeprefix("target=").removesuffix(","))
            break
        if "target" not in values and (prefix := _PREFIX.match(rest)):
            _set(values, "format", _prefix_format(prefix[1]))
            rest = rest[prefix.end():]
            continue
        item, _, rest = rest.partition(",")
        _parameter(values, item)
    return values


def _parameter(values: dict[str, str], item: str) -> None:
    if item in _FLAGS:
        _set(values, _FLAGS[item], item)
    elif match := _NAMED.fullmatch(item):
        if match[1] not in _NAMES:
            raise PropertyError(errno.EINVAL, f"unknown parameter {match[1]!r} in the disk's specification")
        _set(values, match[1], match[2])
    else:
        _place(values, item)


def _place(values: dict[str, str], item: str) -> None:
    """A positional parameter goes to the first name that has no value yet."""
    name = next((name for name in _POSITIONAL if name not in values), None)
    if name is None:
        raise PropertyError(errno.EINVAL, f"too many positional parameters: {item!r} has no place after "
                            "target, format, vdev and access")
    device, colon, devtype = item.rpartition(":")
    if name == "format" and colon and not values["target"]:     # xend's empty drive: ",hdc:cdrom,r"
        _set(values, "format", "empty")
        name = "vdev"
    if name == "vdev" and colon:                                # xend's vdev:devtype
        _set(values, "devtype", devtype)
        item = device
    _set(values, name, item)


def _set(values: dict[str, str], name: str, value: str) -> None:
    if name == "format":
        value = value or "raw"
    if values.get(name) and values[name] != value:
        raise PropertyError(errno.EINVAL, f"{name} is given twice: {values[name]!r} and {value!r}")
    if name == "format":
        _check_format(value)
    elif name in _CHOICES and value not in _CHOICES[name]:
        choices = ", ".join(choice for choice in _CHOICES[name] if choice)
        raise PropertyError(errno.EINVAL, f"{name} {value!r}: expected {choices}")
    values[name] = value


def _check_format(value: str) -> None:
    if value not in ("raw", "empty", *FOREIGN_FORMATS):
        raise PropertyError(errno.EINVAL, f"format {value!r}: expected raw")


def _prefix_format(prefix: str) -> str:
    return prefix if prefix in FOREIGN_FORMATS else "raw"


def _diskspec_target(text: str) -> Target | None:
    return parse(text, base="/dev") if text else None
