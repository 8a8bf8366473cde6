"""A guest as a process: connects, runs a load, verifies, closes; says what happens as JSON lines or for people."""
from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from xenvbd import errors, hv
from xenvbd.frontend.frontend import Frontend, result_of
from xenvbd.frontend.load import KINDS, Load
from xenvbd.frontend.loads import Loads
from xenvbd.frontend.oracle import OracleError
from xenvbd.frontend.persona import PERSONAS
from xenvbd.frontend.result import Result
from xenvbd.units import format_size, parse_duration, parse_size

SECTOR = 512
SLICE = 0.1     # seconds of load between two looks at signals and the backend


def parser() -> argparse.ArgumentParser:
    """The options of `python -m xenvbd.frontend`."""
    p = argparse.ArgumentParser(prog="xenvbd-frontend", description=__doc__)
    p.add_argument("--hypervisor", default="xen", metavar="SPEC", help="xen, or sim:DIR (default: %(default)s)")
    p.add_argument("--domid", type=int, help="the domain this process is, on a simulated machine")
    p.add_argument("--devid", type=int, required=True, help="the vbd's number")
    p.add_argument("--persona", choices=PERSONAS, default="linux", help="whose handshake (default: %(default)s)")
    p.add_argument("--timeout", type=parse_duration, default=10.0, help="of each wait of the handshake")
    p.add_argument("--io-timeout", type=parse_duration, default=30.0, help="without any response")
    p.add_argument("--json", action="store_true", help="JSON lines on stdout")
    p.add_argument("--interval", type=parse_duration, default=0.5, help="between two progress lines")
    p.add_argument("--hold", action="store_true", help="stay connected after the load, until SIGTERM or Closing")
    _ring_options(p.add_argument_group("the ring"))
    _load_options(p.add_argument_group("the load"))
    return p


def _ring_options(p: argparse._ArgumentGroup) -> None:
    p.add_argument("--ring-page-order", type=int, metavar="N", help="at most (default: the persona's)")
    p.add_argument("--queues", type=int, default=1, metavar="N", help="rings at most (default: 1)")
    p.add_argument("--indirect", type=int, metavar="N", help="segments at most; 0: none (default: the persona's)")
    p.add_argument("--abi", choices=("native", "x86_32-abi", "x86_64-abi"), default="native")
    p.add_argument("--fresh-grants", action="store_true", help="grant and revoke the pages of each request")
    p.add_argument("--poll", action="store_true", help="look at the ring instead of sleeping")


def _load_options(p: argparse._ArgumentGroup) -> None:
    p.add_argument("--rw", choices=KINDS, help="what to do (default: nothing)")
    p.add_argument("--bs", type=parse_size, default=4096, help="bytes of a request (default: %(default)s)")
    p.add_argument("--iodepth", type=int, default=32, help="requests in flight (default: %(default)s)")
    p.add_argument("--count", type=int, help="operations; without --seconds the default is one pass over the disk")
    p.add_argument("--seconds", type=parse_duration, help="time to run")
    p.add_argument("--offset", type=parse_size, default=0, help="where the region begins, in bytes")
    p.add_argument("--size", type=parse_size, help="bytes of the region (default: the whole disk)")
    p.add_argument("--read-percent", type=int, default=50, metavar="N", help="of randrw")
    p.add_argument("--flush-every", type=int, default=0, metavar="N", help="a flush after so many writes")
    p.add_argument("--discard-every", type=int, default=0, metavar="N", help="a discard after so many writes")
    p.add_argument("--skew", action="store_true", help="let data start anywhere in its first page")
    p.add_argument("--batch", type=int, default=0, metavar="N", help="requests put at once")
    p.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help="check what is read")
    p.add_argument("--blank", action=argparse.BooleanOptionalAction, default=True,
                   help="what was never written must read as zeros")
    p.add_argument("--tolerate", action="store_true", help="count errors of the disk instead of failing")
    p.add_argument("--prepare", action="store_true", help="first write all of the region")
    p.add_argument("--digest", action="store_true", help="at the end read the disk back; SHA-256 of what it must hold")
    p.add_argument("--seed", type=int, default=1)


class Report:
    """Where the lines go: Report(out, as_json)."""

    def __init__(self, out: TextIO, as_json: bool) -> None:
        self.out, self.as_json = out, as_json
        self.started = time.monotonic()

    def say(self, event: str, fields: dict[str, Any]) -> None:
        """One line; an event is stamped with the seconds since the start and with the time of day."""
        stamp = round(time.monotonic() - self.started, 6)
        if self.as_json:
            line = json.dumps({"event": event, "time": round(time.time(), 6), "since-start": stamp, **fields})
        else:
            line = f"{stamp:9.3f} {event}: " + ", ".join(f"{k} {v}" for k, v in fields.items() if k != "latency")
        print(line, file=self.out, flush=True)


class Guest:
    """One run of the options; stop() ends it early and politely."""

    def __init__(self, options: argparse.Namespace, report: Report) -> None:
        self.options, self.report = options, report
        self.stopping = False
        self.machine = hv.open(options.hypervisor, options.domid)
        self.frontend = Frontend(
            self.machine, None, options.devid, persona=options.persona, ring_page_order=options.ring_page_order,
            indirect=options.indirect, queues=options.queues, abi=options.abi, fresh_grants=options.fresh_grants,
            seed=options.seed, blank=options.blank, timeout=options.timeout, io_timeout=options.io_timeout,
            spin=options.poll, note=report.say)

    def stop(self) -> None:
        """From a signal handler: no new requests, finish, close."""
        self.stopping = True

    def run(self) -> None:
        """Connect, load, verify, close.  Raises what the frontend raises."""
        with self.frontend:
            self._connect()
            if self.options.prepare:
                self._phase("prepare", rw="write", bs=self._large(), iodepth=16)
            if self.options.rw:
                self.report.say("result", self._phase("load", **self._load_options()).to_json())
            if self.options.digest and not self.stopping:
                self._digest()
            if self.options.hold:
                self._hold()
        self.report.say("closed", {})

    def _connect(self) -> None:
        facts = self.frontend.connect()
        self.report.say("connected", {
            "sectors": facts.sectors, "sector-size": facts.sector_size, "ring-page-order": facts.ring_page_order,
            "protocol": self.frontend.wishes.abi,
            "max-indirect-segments": facts.max_segments if facts.max_segments > 11 else 0,
            "queues": len(self.frontend.queues), "event-channel": self.frontend.queue.port,
            "persona": self.options.persona,
            "features": {"flush-cache": facts.flush, "barrier": facts.barrier, "discard": facts.discard,
                         "persistent": facts.persistent}})

    def _region(self) -> dict[str, int]:
        first = self.options.offset // SECTOR
        left = self.frontend.sectors - first
        sectors = left if self.options.size is None else self.options.size // SECTOR
        if sectors > left:
            raise ValueError(f"--size {format_size(sectors * SECTOR)} at {format_size(first * SECTOR)}: the disk has "
                             f"{format_size(self.frontend.sectors * SECTOR)}")
        return {"first": first, "sectors": sectors}

    def _large(self) -> int:
        """Bytes of a request when all of the disk is gone through."""
        return min(self.frontend.queue.max_segments, 32) * 4096

    def _load_options(self) -> dict[str, Any]:
        names = ("rw", "bs", "iodepth", "count", "seconds", "read_percent", "flush_every", "discard_every", "skew",
                 "batch", "verify", "tolerate", "seed")
        return {name: getattr(self.options, name) for name in names}

    def _phase(self, phase: str, **options: Any) -> Result:
        """Run a load to its end, or to ours, and tell how it goes."""
        load = self.frontend.start(**{**self._region(), **options})
        due = time.monotonic() + self.options.interval
        while self._step(load):
            if time.monotonic() >= due:
                due += self.options.interval
                self._progress(phase, load)
        self._progress(phase, load)
        return result_of(load)

    def _step(self, load: Load | Loads) -> bool:
        self._mind_the_backend()
        load.stop = self.stopping
        return bool(load.step(min(SLICE, self.options.interval)))

    def _mind_the_backend(self) -> str:
        """Stop when the backend closes or vanishes; a store that is away is waited for, without stopping."""
        state = self.frontend.look()
        if state in ("closing", "gone"):
            self.stopping = True
        return state

    def _progress(self, phase: str, load: Load | Loads) -> None:
        total = {} if load.operations is None else {"of": load.operations}
        self.report.say("progress", {"phase": phase, **total, **result_of(load).progress()})

    def _digest(self) -> None:
        """Read everything back, check it against the oracle, and sum up what the guest wrote."""
        sectors = self.frontend.sectors
        result = self._phase("digest", rw="verify", bs=self._large(), iodepth=16, first=0, sectors=sectors)
        if not self.stopping:
            self.report.say("digest", {"sha256": self.frontend.shadow.digest(), "verified": result.verified,
                                       "bytes": sectors * SECTOR})

    def _hold(self) -> None:
        """Stay until told to go."""
        poll = select.poll()
        poll.register(self.frontend.bus.store.fileno(), select.POLLIN)
        while not self.stopping:
            if self._mind_the_backend() == "storeless":
                time.sleep(SLICE)
            poll.poll(SLICE * 1000)


def main(argv: list[str] | None = None) -> int:
    """Run the process; its exit status (errors.exit_code): 0, 1 the oracle objects, 4 a deadline passed."""
    options = _options(argv)
    report = Report(sys.stdout, options.json)
    try:
        guest = Guest(options, report)
        _on_signals(guest.stop)
        guest.run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except (OSError, ValueError) as error:
        report.say("error", _described(error))
        return errors.exit_code(error)
    return errors.DONE


def _options(argv: list[str] | None) -> argparse.Namespace:
    p = parser()
    options = p.parse_args(argv)
    if options.digest and options.rw and not options.verify:
        p.error("--digest needs --verify: what an unverified load writes is not remembered")
    return options


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: stop())


def _described(error: OSError | ValueError) -> dict[str, Any]:
    """An error as fields; the oracle's facts are among them."""
    fields: dict[str, Any] = {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, OracleError):
        fields |= {"facts": error.facts, "mismatches": int("sector" in error.facts)}
    return fields
