"""What a load did: counters, time, and the figures made of them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenvbd.stats import OPS, Snapshot


@dataclass(frozen=True)
class Result:
    """One run.  seconds: wall clock; cpu: seconds of CPU time of the frontend's thread; verified: bytes read and
    compared with what was written; depth: requests that each ring could have in flight."""

    rw: str
    snapshot: Snapshot
    seconds: float
    cpu: float
    verified: int
    depth: int

    @property
    def ops(self) -> int:
        return sum(self.snapshot.ops[name].ops for name in OPS)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return self.snapshot.ops["read"].bytes + self.snapshot.ops["write"].bytes

    @property
    def errors(self) -> int:
        return sum(self.snapshot.ops[name].errors for name in OPS)

    @property
    def iops(self) -> float:
        return self.ops / self.seconds if self.seconds else 0.0

    @property
    def events_out(self) -> int:
        """Notifications sent to the backend."""
        return self.snapshot.counters["events_out"]

    @property
    def events_in(self) -> int:
        """Notifications received."""
        return self.snapshot.counters["events_in"]

    def progress(self) -> dict[str, Any]:
        """Cumulative ops and bytes in all and of each operation that occurred, and the rates."""
        each = {name: {"ops": op.ops, "bytes": op.bytes, "errors": op.errors}
                for name, op in self.snapshot.ops.items() if op.ops}
        return {"rw": self.rw, "ops": self.ops, "bytes": self.bytes, "errors": self.errors,
                "seconds": round(self.seconds, 6), "iops": round(self.iops, 1),
                "bytes-per-second": round(self.bytes / self.seconds) if self.seconds else 0,
                "inflight": self.snapshot.inflight, **each}

    def to_json(self) -> dict[str, Any]:
        """progress(), latencies (histogram words as stats.h's buckets), CPU time, notifications; mismatches is 0, for
        the first one is an OracleError and leaves no result."""
        fields = self.progress()
        for name, op in self.snapshot.ops.items():
            if op.ops:
                fields[name] = {**op.to_json(), "latency": list(op.histogram)}
        total = sum((self.snapshot.ops[name] for name in OPS[1:]), self.snapshot.ops[OPS[0]])
        return {**fields, "latency": list(total.histogram), "p50-us": round(total.percentile(50) * 1e6, 1),
                "p99-us": round(total.percentile(99) * 1e6, 1), "cpu": round(self.cpu, 6),
                "notifications": {"in": self.events_in, "out": self.events_out}, "verified": self.verified,
                "mismatches": 0, "iodepth": self.depth}
