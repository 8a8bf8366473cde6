"""argparse types over the grammars of units, vdev and target, so that a wrong word is reported at once."""
from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

from xenvbd import errors, properties, target, units, vdev

T = TypeVar("T")


def typed(parse: Callable[[str], T], text: str) -> T:
    """parse(text), its PropertyError in the form that argparse reports."""
    try:
        return parse(text)
    except errors.PropertyError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


def size(text: str) -> int:
    """Bytes, from "20G" and the like."""
    return typed(units.parse_size, text)


def block_size(text: str, most: int = 1 << 20) -> int:
    """A size that is a power of two from 512 bytes to so many."""
    value = size(text)
    if value < 512 or value > most or value & (value - 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a power of two from 512 to {units.format_size(most)}")
    return value


def logical_block_size(text: str) -> int:
    """A power of two that a guest can be told of as its smallest request."""
    return block_size(text, properties.PAGE)


def physical_block_size(text: str) -> int:
    """A power of two that a guest can be told to align to."""
    return block_size(text, properties.MAX_PHYSICAL)


def duration(text: str) -> float:
    """Seconds, from "8s", "5ms" or a plain number of seconds."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else typed(units.parse_duration, text)


def time_above_zero(text: str) -> float:
    """Seconds, as duration(), but more than none."""
    seconds = duration(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0")
    return seconds


def queues(text: str) -> int:
    """A number of rings that a disk can have."""
    number = positive(text)
    if number > properties.MAX_QUEUES:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range: expected 1 to {properties.MAX_QUEUES}")
    return number


def positive(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def disk(text: str) -> str:
    """A disk's name, DOMAIN:VDEV, its vdev in the canonical spelling."""
    domain, colon, name = text.rpartition(":")
    if not colon or not domain or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not a disk's name: DOMAIN:VDEV, as in web1:xvda")
    return f"{domain}:{typed(vdev.parse, name).name}"


def vdev_name(text: str) -> str:
    """A virtual device's name in the canonical spelling."""
    return typed(vdev.parse, text).name


def target_text(text: str) -> str:
    """A target, checked and returned as it was written: the daemon reads it again."""
    typed(target.parse, text)
    return text
