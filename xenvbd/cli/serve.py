"""`xenvbd serve`: the daemon, in the foreground."""
from __future__ import annotations

import argparse
import errno
import logging
import os
from dataclasses import replace
from typing import Any

from xenvbd import config, errors, hv, trace
from xenvbd.cli import logs

NAME = "serve"
HELP = "run the daemon in the foreground: claim disks, connect guests"
EPILOG = "Without Xen the daemon serves a simulated machine (--hypervisor sim:DIR); xenvbd sim sets one up."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration (default: /etc/xenvbd/xenvbd.toml)")
    parser.add_argument("--hypervisor", metavar="SPEC", help="xen (default), or sim:DIR, a simulated machine")
    parser.add_argument("--trace", metavar="PATTERN", action="append", default=[],
                        help="log the events whose names match, as in 'xen_block_*'; may be given again")
    parser.add_argument("--stop-workers", action="store_true",
                        help="at the end, take every disk from its guest (default: the workers serve on)")
    parser.add_argument("--dump-config", action="store_true", help="print the configuration in force, then exit")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit status."""
    # Here, not above: list and show need not load the daemon.
    from xenvbd import service

    found = configuration(options)
    if options.dump_config:
        print(config.dump(found), end="")
        return errors.DONE
    logs.set_up(options, found)
    status = service.serve(found, lambda: configuration(options), stop_workers=options.stop_workers)
    if status == errors.NO_XEN:
        logging.getLogger("xenvbd").error("without Xen, `xenvbd sim` and `xenvbd bench` run on a simulated machine")
    return status


def configuration(options: argparse.Namespace) -> config.Config:
    """The file's configuration with what the command line says instead.  PropertyError."""
    found = config.load(options.config)
    machine = options.hypervisor or found.hypervisor
    if not hv.is_machine(machine):
        raise errors.PropertyError(errno.EINVAL, f"--hypervisor {machine!r}: expected {hv.EXPECTED}")
    for pattern in options.trace:
        if not trace.matches(pattern):
            raise errors.PropertyError(errno.EINVAL, f"--trace {pattern!r}: expected a pattern that matches an event, "
                                       "like 'xen_block_*'")
    given: dict[str, Any] = {"hypervisor": machine, "trace": (*found.trace, *options.trace)}
    if options.socket:
        given["socket"] = os.path.abspath(options.socket)
    if machine.startswith("sim:") and found.runtime_dir == config.Config.runtime_dir:
        # A simulated machine's daemon leaves nothing outside of it.
        given["runtime_dir"] = os.path.join(os.path.abspath(machine.removeprefix("sim:")), "run")
    return replace(found, **given)
