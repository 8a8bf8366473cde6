"""What a guest did to a disk, and whether the image holds it: the end of `xenvbd sim`."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from xenvbd.cli import render
from xenvbd.target import Target

Event = Mapping[str, Any]
Total = dict[str, Any]

CHUNK = 1 << 20


def count(event: Event, operation: str, what: str) -> int:
    """ops or bytes of one operation in a progress event; 0 if there were none."""
    return int(event.get(operation, {}).get(what, 0))


def rates(event: Event, before: Event) -> str:
    """What happened between two progress events: "load     read 210 MB/s 51.3k IOPS  write ..."."""
    seconds = max(1e-6, event["seconds"] - before.get("seconds", 0.0))
    parts = [f"{event['phase']:<8}"]
    for operation in ("read", "write"):
        bytes_, ops = (count(event, operation, what) - count(before, operation, what) for what in ("bytes", "ops"))
        if ops:
            parts.append(f"{operation} {render.bandwidth(bytes_ / seconds):>9} {render.rate(ops / seconds):>6} IOPS")
    return "  ".join(parts).rstrip()


def total(name: str, target: Target, last: Mapping[str, Event], phases: Mapping[str, Event]) -> Total:
    """All that is known of a disk at the end: last and phases are a Frontend's."""
    result, digest, error = last.get("result", {}), last.get("digest", {}), last.get("error")
    load = phases.get("load", {})
    found: Total = {
        "disk": name, "target": str(target),
        "written": sum(count(phases.get(phase, {}), "write", "bytes") for phase in ("prepare", "load")),
        "read": sum(count(phases.get(phase, {}), "read", "bytes") for phase in ("load", "digest")),
        "verified": result.get("verified", 0) + digest.get("verified", 0),
        "wrong": (error or {}).get("mismatches", 0),
        "iops": load.get("iops", 0.0), "bytes-per-second": load.get("bytes-per-second", 0),
        "sha256-guest": digest.get("sha256"), "sha256-image": None, "error": error and error["message"]}
    if digest and target.scheme == "file":
        found["sha256-image"] = sha256(target.path, digest["bytes"])
    same = found["sha256-image"] in (None, found["sha256-guest"])
    return found | {"ok": bool(result) and not error and same}


def sha256(path: str, length: int) -> str:
    """The checksum of the image's first bytes, read as any program reads a file: behind the backend's back."""
    digest = hashlib.sha256()
    with open(path, "rb") as image:
        while length and (data := image.read(min(CHUNK, length))):
            digest.update(data)
            length -= len(data)
    return digest.hexdigest()


def text(totals: Sequence[Total]) -> str:
    """The report for people."""
    rows = [(each["disk"], megabytes(each["written"]), megabytes(each["read"]), megabytes(each["verified"]),
             str(each["wrong"]), render.rate(each["iops"]), render.bandwidth(each["bytes-per-second"]))
            for each in totals]
    parts = [render.table(("DISK", "WRITTEN", "READ BACK", "VERIFIED", "WRONG", "IOPS", "BANDWIDTH"), rows)]
    for each in totals:
        parts += ["", f"{each['disk']}  {each['target']}", *(f"  {line}" for line in verdict(each))]
    return "\n".join(parts)


def verdict(each: Total) -> list[str]:
    """How it ended, for one disk."""
    if each["error"]:
        return [f"FAILED: {each['error']}"]
    if each["sha256-guest"] is None:
        return ["nothing to compare: " + ("it keeps nothing" if each["written"] else "nothing was written")]
    lines = [f"what the guest wrote   sha256 {each['sha256-guest']}"]
    if each["sha256-image"] is None:
        return [*lines, "every byte read back as it was written"]
    lines.append(f"what the image holds   sha256 {each['sha256-image']}")
    return [*lines, "equal: every byte is where it belongs" if each["ok"] else "FAILED: they differ"]


def megabytes(count: int) -> str:
    """A number of bytes for people: 268 MB."""
    return f"{render.significant(count / 1e6)} MB"
