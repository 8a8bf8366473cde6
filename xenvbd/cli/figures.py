"""What `xenvbd bench` prints: the guest's figures and the backend's, brought together."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from xenvbd import stats
from xenvbd.cli import render
from xenvbd.cli.pauses import percentiles
from xenvbd.target import Target

# Counters of the backend that are shown as so many a request, and what they are called there.
PER_REQUEST = {"events-in": "notifications in", "events-out": "out", "wakeups": "wake-ups", "submits": "submits",
               "grant-copies": "grant copies"}


def measured(options: argparse.Namespace, target: Target, disk: Mapping[str, Any], result: Mapping[str, Any],
             worker_cpu: float, pauses: Sequence[float] = ()) -> dict[str, Any]:
    """Everything: disk is the daemon's `show` after the load, result the guest's, worker_cpu seconds of the worker,
    pauses those of the guest, in seconds, when workers were killed.

    In seconds, bytes, microseconds and counts a request."""
    ops = max(1, result["ops"])
    counters = disk["stats"]
    return {
        "target": str(target), "rw": options.rw, "bs": options.bs, "iodepth": result["iodepth"],
        "iodepth-asked": options.iodepth,
        "persona": options.persona, "poll": options.poll, "engine": disk.get("engine"),
        "protocol": disk.get("protocol"), "queues": disk.get("queues"), "ring-page-order": disk.get("ring-page-order"),
        "seconds": result["seconds"], "ops": result["ops"], "errors": result["errors"],
        "iops": result["iops"], "bytes-per-second": result["bytes-per-second"],
        "p50-us": percentile(result, 50), "p99-us": percentile(result, 99), "p99.9-us": percentile(result, 99.9),
        "cpu-us": {"backend": worker_cpu * 1e6 / ops, "frontend": result["cpu"] * 1e6 / ops},
        "per-request": {name: counters[name] / ops for name in PER_REQUEST},
        "pause-ms": {"kills": len(pauses), **percentiles(pauses),
                     "each": [round(pause * 1e3, 1) for pause in pauses]} if pauses else None,
        "stats": counters}


def percentile(result: Mapping[str, Any], percent: float) -> float:
    """Microseconds that so many percent of the requests stayed below."""
    return round(stats.percentile(result["latency"], percent) * 1e6, 1)


def text(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    cpu, each = figures["cpu-us"], figures["per-request"]
    waits = "polling" if figures["poll"] else "sleeping"
    asked = "" if figures["iodepth"] == figures["iodepth-asked"] else f" (not {figures['iodepth-asked']})"
    lines = [
        ("load", f"{figures['rw']}, {figures['bs']} bytes, {figures['iodepth']} in flight{asked}, "
                 f"{figures['seconds']:.1f} s; a {waits} {figures['persona']} guest"),
        ("target", f"{figures['target']}, engine {figures['engine']}"),
        ("IOPS", render.rate(figures["iops"])),
        ("bandwidth", render.bandwidth(figures["bytes-per-second"])),
        ("latency", "  ".join(f"p{percent} {render.latency(figures[f'p{percent}-us'] * 1e3)}"
                              for percent in ("50", "99", "99.9"))),
        ("CPU", f"{render.significant(cpu['backend'])} us a request in the backend, "
                f"{render.significant(cpu['frontend'])} us in the guest"),
        ("a request", ", ".join(f"{render.significant(each[name])} {what}" for name, what in PER_REQUEST.items()))]
    if pause := figures["pause-ms"]:
        names = "  ".join(f"{name} {render.latency(pause[name] * 1e6)}" for name in ("p50", "p99", "max"))
        lines.append(("pause", f"{names}; the worker was killed {pause['kills']} times"))
    if figures["errors"]:
        lines.append(("errors", str(figures["errors"])))
    return render.facts(lines)
