"""The counters of include/xenvbd/stats.h by name: snapshots, differences, percentiles.

A snapshot is a copy made with one read(2): a worker that shortened or scribbled on its file can make it
wrong, not dangerous, and nobody waits for a worker to get one.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAGIC = 0x31544154534456
OPS = ("read", "write", "flush", "discard")                 # enum xenvbd_stat_op
STOPS = ("none", "no-space", "flush-failed", "io-error")    # enum xenvbd_stop
BUCKETS = 128

# struct xenvbd_stats without the magic and the operations, in order.
COUNTERS = ("inflight", "passes", "wakeups", "events_in", "events_out", "pushes", "invalid", "unsupported",
            "grant_copies", "grant_segments", "grant_errors", "grants_kept", "submits", "starved", "quarantined",
            "stopped")
# Words that are a state now, not a count since the start: a difference keeps the later one.
GAUGES = ("inflight", "grants_kept", "quarantined", "stopped")
# struct xenvbd_op_stats without the histogram.
OP_COUNTERS = ("ops", "bytes", "errors", "nanoseconds")

_OP_WORDS = len(OP_COUNTERS) + BUCKETS
WORDS = 1 + len(COUNTERS) + len(OPS) * _OP_WORDS
SIZE = WORDS * 8                                            # sizeof(struct xenvbd_stats)


def bucket_of(nanoseconds: int) -> int:
    """xenvbd_histogram_bucket(): four buckets to a power of two."""
    if nanoseconds < 4:
        return nanoseconds
    log2 = nanoseconds.bit_length() - 1
    return min((log2 - 1) * 4 + ((nanoseconds >> (log2 - 2)) & 3), BUCKETS - 1)


def bucket_range(bucket: int) -> tuple[int, int]:
    """The latencies [low, high) in nanoseconds that a bucket counts."""
    if bucket < 4:
        return bucket, bucket + 1
    log2, quarter = bucket // 4 + 1, bucket % 4
    step = 1 << (log2 - 2)
    return (4 + quarter) * step, (5 + quarter) * step


def percentile(histogram: Sequence[int], percent: float) -> float:
    """The latency in seconds that so many percent of the operations stayed below; 0.0 if there were none.

    Right within the bucket's width, 19 %."""
    rank = sum(histogram) * percent / 100
    if not rank:
        return 0.0
    seen = 0
    for bucket, count in enumerate(histogram):
        if count and seen + count >= rank:
            low, high = bucket_range(bucket)
            return (low + (high - low) * (rank - seen) / count) / 1e9
        seen += count
    return bucket_range(BUCKETS - 1)[1] / 1e9


@dataclass(frozen=True)
class OpStats:
    """One operation's counters; nanoseconds is the sum of the latencies."""

    ops: int = 0
    bytes: int = 0
    errors: int = 0
    nanoseconds: int = 0
    histogram: tuple[int, ...] = field(default=(0,) * BUCKETS, repr=False)

    def __sub__(self, earlier: OpStats) -> OpStats:
        return self._each(earlier, lambda now, then: max(0, now - then))

    def __add__(self, other: OpStats) -> OpStats:
        return self._each(other, lambda a, b: a + b)

    def percentile(self, percent: float) -> float:
        """Seconds, see percentile()."""
        return percentile(self.histogram, percent)

    def to_json(self) -> dict[str, Any]:
        """Counters and the usual percentiles, latencies in microseconds, None if there was no operation."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in OP_COUNTERS[:3]}
        fields["mean-us"] = round(self.nanoseconds / self.ops / 1000, 1) if self.ops else None
        return fields | {f"p{p:g}-us": round(self.percentile(p) * 1e6, 1) if self.ops else None for p in (50, 99, 99.9)}

    def _each(self, other: OpStats, combine: Callable[[int, int], int]) -> OpStats:
        plain = {name: combine(getattr(self, name), getattr(other, name)) for name in OP_COUNTERS}
        return OpStats(**plain, histogram=tuple(map(combine, self.histogram, other.histogram)))


@dataclass(frozen=True)
class Snapshot:
    """The counters of a queue, or of several added up, at one moment."""

    counters: dict[str, int]
    ops: dict[str, OpStats]

    @classmethod
    def zero(cls) -> Snapshot:
        return cls(dict.fromkeys(COUNTERS, 0), {name: OpStats() for name in OPS})

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Of a struct xenvbd_stats; zero() if it is too short or has not been started."""
        if len(data) < SIZE:
            return cls.zero()
        words = struct.unpack_from(f"={WORDS}Q", data)
        if words[0] != MAGIC:
            return cls.zero()
        counters = dict(zip(COUNTERS, words[1:], strict=False))
        first = 1 + len(COUNTERS)
        return cls(counters, {name: _op_stats(words, first + i * _OP_WORDS) for i, name in enumerate(OPS)})

    @classmethod
    def of_files(cls, paths: Iterable[str]) -> Snapshot:
        """The sum over the queues' files; one that is not there counts as zero."""
        return sum((cls.from_bytes(_read(path)) for path in paths), cls.zero())

    def __sub__(self, earlier: Snapshot) -> Snapshot:
        """What happened between two snapshots; never negative, also if a new worker began in between."""
        counters = {name: now if name in GAUGES else max(0, now - earlier.counters[name])
                    for name, now in self.counters.items()}
        return Snapshot(counters, {name: self.ops[name] - earlier.ops[name] for name in OPS})

    def __add__(self, other: Snapshot) -> Snapshot:
        """Of two queues; `stopped`, a code, is the graver of the two."""
        counters = {name: now + other.counters[name] for name, now in self.counters.items()}
        counters["stopped"] = max(self.counters["stopped"], other.counters["stopped"])
        return Snapshot(counters, {name: self.ops[name] + other.ops[name] for name in OPS})

    def settled(self) -> Snapshot:
        """What was counted, without what was only so at that moment."""
        return Snapshot(self.counters | dict.fromkeys(GAUGES, 0), self.ops)

    @property
    def inflight(self) -> int:
        return self.counters["inflight"]

    @property
    def stopped(self) -> str:
        """Why the device holds requests; "none" if it does not."""
        code = self.counters["stopped"]
        return STOPS[code] if code < len(STOPS) else "unknown"

    def to_json(self) -> dict[str, Any]:
        """Keys spelt with hyphens, one object an operation."""
        fields: dict[str, Any] = {name.replace("_", "-"): value for name, value in self.counters.items()}
        fields["stopped"] = self.stopped
        return fields | {name: op.to_json() for name, op in self.ops.items()}


def _op_stats(words: Sequence[int], at: int) -> OpStats:
    plain = at + len(OP_COUNTERS)
    plain_words = dict(zip(OP_COUNTERS, words[at:plain], strict=True))
    return OpStats(**plain_words, histogram=tuple(words[plain:plain + BUCKETS]))


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(fd, SIZE, 0)
    finally:
        os.close(fd)
