"""The end of sim, the figures of bench, and the rates in between."""
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from xenvbd.cli import figures, parser, report
from xenvbd.cli.pauses import Pauses, percentiles
from xenvbd.stats import BUCKETS, bucket_of
from xenvbd.target import Target, parse


def operations(**each: int) -> dict[str, Any]:
    return {name: {"ops": ops, "bytes": ops * 4096, "errors": 0} for name, ops in each.items()}


PHASES = {"prepare": {"phase": "prepare", **operations(write=100)},
          "load": {"phase": "load", "iops": 30.0, "bytes-per-second": 122880, **operations(read=20, write=10)},
          "digest": {"phase": "digest", **operations(read=100)}}


def last(sha: str) -> dict[str, Any]:
    return {"result": {"verified": 20 * 4096}, "digest": {"verified": 100 * 4096, "bytes": 409600, "sha256": sha}}


@pytest.fixture
def image(tmp_path: Path) -> Target:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 409600)
    return parse(str(path))


SHA = hashlib.sha256(b"x" * 409600).hexdigest()


def test_a_disk_is_good_if_its_image_holds_what_the_guest_wrote(image: Target) -> None:
    total = report.total("guest1:xvda", image, last(SHA), PHASES)
    assert total["ok"] and total["sha256-image"] == SHA
    assert (total["written"], total["read"], total["verified"]) == (110 * 4096, 120 * 4096, 120 * 4096)
    assert "equal: every byte is where it belongs" in report.text([total])


def test_a_single_other_byte_of_the_image_fails(image: Target) -> None:
    with open(image.path, "r+b") as file:
        file.seek(4711)
        file.write(b"y")
    total = report.total("guest1:xvda", image, last(SHA), PHASES)
    assert not total["ok"] and "FAILED: they differ" in report.text([total])


def test_what_the_oracle_objected_to_is_the_verdict(image: Target) -> None:
    error = {"error": {"message": "sector 7: not what was written", "mismatches": 1}}
    total = report.total("guest1:xvda", image, {"result": {}, **error}, PHASES)
    assert not total["ok"] and total["wrong"] == 1
    assert "FAILED: sector 7: not what was written" in report.text([total])


def test_a_disk_in_memory_has_no_image_to_look_into() -> None:
    total = report.total("guest1:xvda", parse("mem:1M"), last(SHA), PHASES)
    assert total["ok"] and "every byte read back as it was written" in report.text([total])


def test_a_guest_that_never_finished_is_not_good(image: Target) -> None:
    assert not report.total("guest1:xvda", image, {}, {})["ok"]


def test_rates_are_of_the_time_since_the_last_look() -> None:
    before = {"phase": "load", "seconds": 1.0, **operations(read=1000)}
    now = {"phase": "load", "seconds": 1.5, **operations(read=2000, write=500)}
    assert report.rates(now, before) == "load      read 8.19 MB/s   2000 IOPS  write 4.10 MB/s   1000 IOPS"


def test_bench_brings_both_ends_together() -> None:
    options = parser.build().parse_args(["bench", "null:1G", "--poll"])
    histogram = [0] * BUCKETS
    histogram[bucket_of(100_000)] = 1000
    result = {"ops": 1000, "errors": 0, "seconds": 1.0, "iops": 1000.0, "bytes-per-second": 4096000, "cpu": 0.001,
              "iodepth": 32, "latency": histogram}
    counters = {"events-in": 30, "events-out": 40, "wakeups": 45, "submits": 50, "grant-copies": 60}
    found = figures.measured(options, parse("null:1G"), {"engine": "null", "stats": counters}, result, 0.002)
    assert found["cpu-us"] == {"backend": 2.0, "frontend": 1.0}
    assert 80 < found["p50-us"] < 120 and found["per-request"]["events-in"] == 0.03
    said = figures.text(json.loads(json.dumps(found)))
    assert "0.0300 notifications in, 0.0400 out, 0.0450 wake-ups, 0.0500 submits, 0.0600 grant copies" in said
    assert "polling linux guest" in said and "pause" not in said


def test_bench_tells_of_kills_what_most_guests_waited_and_the_longest() -> None:
    seconds = [n / 1000 for n in range(1, 201)]
    assert percentiles(reversed(seconds)) == {"p50": 101.0, "p99": 199.0, "max": 200.0}
    assert percentiles([0.08]) == {"p50": 80.0, "p99": 80.0, "max": 80.0}


def test_a_kill_after_which_the_load_was_over_is_no_pause() -> None:
    seconds: list[float] = []
    with subprocess.Popen(["sleep", "60"]) as process:
        Pauses(3, lambda: 7, seconds).kill(process.pid, 10, lambda: True)
        assert process.wait(10) == -9 and seconds == []
