"""The parameters of the control socket's verbs: which there are, and what they may be.

One that is not known, or is of the wrong type, is refused: its sender may count on what would be overlooked.
"""
from __future__ import annotations

import errno
from dataclasses import fields
from typing import Any

from xenvbd import units
from xenvbd.errors import PropertyError
from xenvbd.properties import Properties

# Parameters of attach that are properties of the disk: the name there.
PLAIN = {field.name.replace("_", "-"): field.name for field in fields(Properties)
         if field.name not in ("domid", "vdev", "target")}
OTHERS = ("domain", "target", "vdev", "engine", "wait", "timeout")
KNOWN: dict[str, tuple[str, ...]] = {
    "ping": (), "list": ("domain",), "show": ("disk",), "explain": ("disk",), "resume": ("disk", "same-content"),
    "restart": ("disk", "timeout"), "detach": ("disk", "force", "wait", "timeout"), "attach": (*PLAIN, *OTHERS)}

_SIZES = ("logical-block-size", "physical-block-size", "discard-granularity")
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "bool | None": (bool, type(None)), "int | None": (int, type(None))}
_EXPECTED = {str: "a text", bool: "true or false", int: "a whole number", type(None): "null"}
_TYPE_OF = {name: _TYPES[str(field.type)] for name, plain in PLAIN.items()
            for field in fields(Properties) if field.name == plain}


def refuse_unknown(verb: str, params: dict[str, Any]) -> None:
    """PropertyError for a parameter that the verb does not have."""
    if unknown := sorted(set(params) - set(KNOWN[verb])):
        expected = ", ".join(sorted(KNOWN[verb])) or "none"
        raise PropertyError(errno.EINVAL, f"{verb} does not know {', '.join(unknown)}: expected {expected}")


def properties(params: dict[str, Any]) -> dict[str, Any]:
    """The properties of a disk that are asked for, by field.  Sizes may be texts ("4K").  PropertyError."""
    return {PLAIN[name]: _value(name, value) for name, value in params.items() if name in PLAIN}


def text(params: dict[str, Any], name: str) -> str:
    """A text that must be there.  PropertyError."""
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise PropertyError(errno.EINVAL, f"{name} is missing")
    return value


def flag(params: dict[str, Any], name: str, default: bool = False) -> bool:
    """True or false.  PropertyError."""
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise PropertyError(errno.EINVAL, f"{name} {value!r}: expected true or false")
    return value


def seconds_of(params: dict[str, Any], default: float) -> float:
    """The parameter timeout, in seconds.  PropertyError."""
    value = params.get("timeout")
    if value is None:
        return default
    if isinstance(value, str):
        return units.parse_duration(value)
    if isinstance(value, int | float) and 0 <= value < 1e9:
        return float(value)
    raise PropertyError(errno.EINVAL, f"timeout {value!r}: expected seconds, or a text like '30s'")


def _value(name: str, value: Any) -> Any:
    if name in _SIZES and isinstance(value, str):
        return units.parse_size(value)
    expected = _TYPE_OF[name]
    if type(value) not in expected:
        raise PropertyError(errno.EINVAL, f"{name} {value!r}: expected {' or '.join(_EXPECTED[t] for t in expected)}")
    return value


def refuse_what_cannot_act(properties: Properties, asked: dict[str, Any]) -> None:
    """PropertyError for what was asked of one disk and could have no effect on it."""
    target = properties.target
    if asked.get("direct") and target is not None and target.scheme != "file":
        raise PropertyError(errno.EINVAL, f"direct: {target} has no page cache to bypass: leave it out")
    if asked.get("persistent") and properties.direct:
        raise PropertyError(errno.EINVAL, "persistent: persistent grants are not used with direct I/O (XSA-229): leave "
                            "it out, or say --no-direct (direct-io = false)")
    if asked.get("share") and properties.read_only:
        raise PropertyError(errno.EINVAL, "share: the disk is read-only, and shares its image with all that read: "
                            "leave it out")
    if asked.get("lock") is False and target is not None and target.scheme != "file":
        raise PropertyError(errno.EINVAL, f"lock: {target} has no image that others could have: leave it out")
    if asked.get("werror") and properties.read_only:
        raise PropertyError(errno.EINVAL, "werror: the disk is read-only, and has no writes that fail: leave it out")
