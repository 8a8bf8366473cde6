"""`xenvbd explain`: why a disk is not Connected, and what to look at next."""
from __future__ import annotations

import argparse
from typing import Any

from xenvbd import units
from xenvbd.cli import client, render
from xenvbd.cli import options as types
from xenvbd.text import printable, quoted

NAME = "explain"
HELP = "say how far a disk's handshake got, why it stopped, and what to look at next"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("disk", metavar="DISK", type=types.disk, help="DOMAIN:VDEV, also of a disk that is not served")


def run(options: argparse.Namespace) -> int:
    """The story, and the exit status that goes with its end."""
    told = client.call(options, "explain", disk=options.disk)
    print(render.as_json(told) if options.json else story(told))
    status: int = told["exit-status"]
    return status


def story(told: dict[str, Any]) -> str:
    """What people read."""
    lines = [f"{quoted(told['disk'])} ({told['vdev']}), backend {told['backend']}"]
    facts = [(end, _states(told, end)) for end in ("backend", "frontend")]
    if told.get("target"):
        size = told.get("size")
        facts.append(("target", f"{told['target']}, {units.format_size(size)}" if size else str(told["target"])))
    lines += [f"  {line}" for line in render.facts(facts).splitlines()]
    lines.append(f"{told['verdict']}: {told['why']}")
    lines += [f"warning: {warning}" for warning in told.get("warnings", ())]
    return "\n".join(map(printable, [*lines, *(f"  {hint}" for hint in told["look"])]))


def _states(told: dict[str, Any], end: str) -> str:
    """"Initialising -> InitWait 0.041 s, for 12.3 s"; no times for a disk that is not the daemon's."""
    steps = [step for step in told["states"] if step["end"] == end]
    if not steps:
        return "-"
    first, *later = steps
    chain = " -> ".join([first["state"], *(f"{step['state']} {_seconds(step['seconds'])}" for step in later)])
    if told["seconds"] is not None:
        chain += f", for {_seconds(told['seconds'] - steps[-1]['seconds'])}"
    return chain


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 1 else f"{render.significant(value)} s"
