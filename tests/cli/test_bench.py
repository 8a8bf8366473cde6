"""`xenvbd bench`, end to end and short."""
import json
import os
from pathlib import Path

import pytest

from tests.cli.machines import Command


@pytest.mark.parametrize("rw", ["randread", "randrw", "write"])
def test_the_figures_are_there_and_make_sense(rw: str, tmp_path: Path) -> None:
    status, out, err = Command(tmp_path, "--json", "bench", "mem:16M", "--rw", rw, "--seconds", "500ms").end()
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["iops"] > 0 and found["bytes-per-second"] == pytest.approx(found["iops"] * 4096, rel=0.01)
    assert 0 < found["p50-us"] <= found["p99-us"] <= found["p99.9-us"]
    assert found["cpu-us"]["backend"] > 0 and found["cpu-us"]["frontend"] > 0
    assert found["per-request"]["events-in"] <= 1.1 and found["engine"] == "memory"


def test_backend_and_guest_count_the_same_requests(tmp_path: Path) -> None:
    _, out, _ = Command(tmp_path, "--json", "bench", "null:1G", "--seconds", "300ms").end()
    found = json.loads(out)
    assert found["stats"]["read"]["ops"] == found["ops"] and found["errors"] == 0


def test_persistent_grants_are_asked_for_with_an_option_and_no_data_is_copied(tmp_path: Path) -> None:
    _, out, _ = Command(tmp_path, "--json", "bench", "null:1G", "--seconds", "300ms", "--persistent").end()
    found = json.loads(out)
    assert found["stats"]["grant-copies"] == 0 and found["stats"]["grants-kept"] >= 32


def test_a_guest_with_two_queues_keeps_both_busy(tmp_path: Path) -> None:
    _, out, _ = Command(tmp_path, "--json", "bench", "null:1G", "--seconds", "300ms", "--queues", "2").end()
    found = json.loads(out)
    assert found["queues"] == 2 and found["errors"] == 0 and found["stats"]["read"]["ops"] == found["ops"]


def test_a_file_is_read_through_io_uring_within_the_size_asked_for(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    status, out, err = Command(tmp_path, "bench", str(image), "--size", "1M", "--seconds", "300ms", "--poll").end()
    assert (status, err) == (0, "")
    assert f"target     {image}, engine " in out and "polling linux guest" in out


@pytest.mark.parametrize("rw", ["randread", "randwrite"])
def test_a_file_larger_than_memory_needs_memory_for_what_is_touched(rw: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 40)
    status, out, err = Command(tmp_path, "--json", "bench", str(image), "--rw", rw, "--bs", "512", "--write-target",
                               "--seconds", "300ms").end()
    assert (status, err) == (0, "") and json.loads(out)["iops"] > 0


def test_progress_goes_to_the_descriptor_and_not_to_stderr(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = Command(tmp_path, "bench", "null:1G", "--seconds", "300ms", "--progress", str(writer),
                      pass_fds=(writer,))
    os.close(writer)
    status, _, err = command.end()
    lines = os.read(reader, 4096).split()
    os.close(reader)
    assert (status, err) == (0, "") and lines[-1] == b"100/100"


def test_writing_to_a_file_needs_leave(tmp_path: Path) -> None:
    image = tmp_path / "precious.img"
    image.write_bytes(b"precious" * 512)
    status, _, err = Command(tmp_path, "bench", str(image), "--rw", "write").end()
    assert status == 2 and f"{image}: --rw write overwrites" in err and image.read_bytes() == b"precious" * 512


def test_the_disks_properties_can_be_chosen(tmp_path: Path) -> None:
    _, out, _ = Command(tmp_path, "--json", "bench", "mem:16M", "--seconds", "200ms", "--iodepth", "128",
                        "--ring-page-order", "1").end()
    found = json.loads(out)
    assert found["ring-page-order"] == 1 and (found["iodepth"], found["iodepth-asked"]) == (64, 128)


def test_requests_in_flight_are_those_that_there_are_and_not_those_asked_for(tmp_path: Path) -> None:
    _, out, _ = Command(tmp_path, "bench", "mem:16M", "--seconds", "200ms", "--persona", "grub").end()
    assert "4096 bytes, 1 in flight (not 32), 0.2 s; a sleeping grub guest" in out


@pytest.mark.slow
def test_a_worker_that_is_killed_under_the_load_costs_a_pause_and_no_error(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    status, out, err = Command(tmp_path, "--json", "bench", str(image), "--kills", "5", "--iodepth", "4").end(120)
    found = json.loads(out)
    assert (status, err) == (0, "") and found["errors"] == 0
    pause = found["pause-ms"]
    assert pause["kills"] == len(pause["each"]) == 5 and 0 < pause["p50"] < pause["max"] == max(pause["each"])
    assert found["cpu-us"]["backend"] > 0


def test_memory_is_not_killed(tmp_path: Path) -> None:
    status, _, err = Command(tmp_path, "bench", "mem:16M", "--kills", "1").end()
    assert status == 2 and "lost with its worker" in err
