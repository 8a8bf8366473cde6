"""`xenvbd doctor`: is this host fit to serve disks, and what would make it so."""
from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from xenvbd import config
from xenvbd.cli import render
from xenvbd.text import printable

NAME = "doctor"
HELP = "look at this host: Xen, its devices, xenstored, rival backends, io_uring; each finding with its fix"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration (default: /etc/xenvbd/xenvbd.toml)")


def run(options: argparse.Namespace) -> int:
    """A line for each finding, with -q only those that want something done; an object with --json."""
    # Here, not above: list and show need not load it.
    from xenvbd import doctor

    settings = config.load(options.config)
    if options.socket:
        settings = replace(settings, socket=options.socket)
    findings = doctor.Doctor(settings).findings()
    status = doctor.status(findings)
    if options.json:
        shown = [{name: value for name, value in asdict(finding).items() if name != "status"} for finding in findings]
        print(render.as_json({"findings": shown, "exit-status": status}))
        return status
    for finding in findings:
        if not options.quiet or finding.level in ("warn", "fail"):
            print(f"{finding.level:<4}  {printable(finding.found)}")
            if finding.fix:
                print(f"      {printable(finding.fix)}")
    return status
