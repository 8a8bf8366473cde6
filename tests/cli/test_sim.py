"""`xenvbd sim`, end to end: store, daemon, worker and guests as processes, every byte checked, nothing left."""
import hashlib
import json
import signal
from pathlib import Path

import pytest

from tests.cli.machines import Command, nothing_left, processes_with

SHORT = ("--seconds", "300ms", "--size", "4M")
MACHINE = r"hypervisor is sim:(\S+)"


def test_two_guests_write_and_read_and_their_images_hold_it(tmp_path: Path) -> None:
    status, out, err = Command(tmp_path, "--json", "sim", "--guests", "2", *SHORT).end()
    found = json.loads(out)
    assert (status, err, found["ok"]) == (0, "", True)
    for disk in found["disks"]:
        assert disk["sha256-guest"] == disk["sha256-image"] and disk["wrong"] == 0
        assert disk["verified"] >= 4 << 20 and disk["written"] >= 4 << 20


def test_the_live_view_tells_the_handshake_and_the_rates(tmp_path: Path) -> None:
    status, out, _ = Command(tmp_path, "sim", *SHORT).end()
    order = ["realize ", "backend     InitWait", "frontend    Initialised", "connect     x86_64-abi",
             "backend     Connected", "prepare ", "load ", "digest ", "equal: every byte is where it belongs"]
    places = [out.find(text) for text in order]
    assert status == 0 and -1 not in places and places == sorted(places), out


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    command = Command(tmp_path, "sim", *SHORT)
    directory = command.until(MACHINE)[1]
    assert processes_with(directory)
    assert command.end()[0] == 0 and nothing_left(directory, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_a_signal_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    command = Command(tmp_path, "sim", "--seconds", "60s")
    directory = command.until(MACHINE)[1]
    command.until("load ")
    command.signal(number)
    assert command.end()[0] == 128 + number and nothing_left(directory, tmp_path)


def killed(images: Path) -> str:
    """The directory of a machine whose sim was killed."""
    command = Command(images, "sim", "--seconds", "60s")
    directory = command.until(MACHINE)[1]
    command.until("load ")
    command.signal(signal.SIGKILL)
    command.end()
    return directory


def test_no_process_is_left_when_it_is_killed(tmp_path: Path) -> None:
    directory = killed(tmp_path)
    assert not nothing_left(directory, tmp_path, 20) and not processes_with(directory)


def test_what_a_killed_one_left_goes_at_the_next_start(tmp_path: Path) -> None:
    directory = killed(tmp_path)
    assert Path(directory).exists() and list(tmp_path.iterdir())
    assert Command(tmp_path, "sim", *SHORT).end()[0] == 0
    assert nothing_left(directory, tmp_path)


def test_one_that_runs_is_left_alone_by_the_next(tmp_path: Path) -> None:
    command = Command(tmp_path, "sim", "--keep", *SHORT)
    socket = command.until(r"XENVBD_SOCKET=(\S+)")[1]
    command.until("stays up until Ctrl-C")
    assert Command(tmp_path, "sim", *SHORT).end()[0] == 0
    assert Command(tmp_path, "--socket", socket, "list", "-q").end()[1] == "guest1:xvda\n"
    command.signal(signal.SIGINT)
    assert command.end()[0] == 0


@pytest.mark.parametrize("persona", ["windows", "freebsd", "minios", "grub"])
def test_any_guest_will_do(persona: str, tmp_path: Path) -> None:
    status, out, err = Command(tmp_path, "--json", "sim", "--persona", persona, *SHORT).end()
    assert (status, err) == (0, "") and json.loads(out)["ok"]


def test_targets_in_memory_go_to_the_guests_in_turn(tmp_path: Path) -> None:
    status, out, _ = Command(tmp_path, "--json", "sim", "--guests", "2", *SHORT, "mem:2M", "null:1G", "mem:1M").end()
    disks = json.loads(out)["disks"]
    assert status == 0
    assert [(each["disk"], each["target"]) for each in disks] == [
        ("guest1:xvda", "mem:2M"), ("guest2:xvda", "null:1G"), ("guest1:xvdb", "mem:1M")]


def test_a_load_that_only_reads_leaves_the_image_as_it_was(tmp_path: Path) -> None:
    image = tmp_path / "precious.img"
    image.write_bytes(b"precious" * (1 << 17))
    status, out, err = Command(tmp_path, "--json", "sim", "--rw", "randread", "--seconds", "300ms", str(image)).end()
    assert (status, err) == (0, "") and json.loads(out)["disks"][0]["read"] > 0
    assert hashlib.sha256(image.read_bytes()).digest() == hashlib.sha256(b"precious" * (1 << 17)).digest()


def test_an_image_is_not_overwritten_unless_that_is_said(tmp_path: Path) -> None:
    image = tmp_path / "precious.img"
    image.write_bytes(b"precious" * (1 << 17))
    status, _, err = Command(tmp_path, "sim", str(image)).end()
    assert status == 2 and "--write-target" in err and str(image) in err


def test_a_second_terminal_can_list_show_attach_and_detach(tmp_path: Path) -> None:
    command = Command(tmp_path, "sim", "--keep", *SHORT)
    socket = command.until(r"XENVBD_SOCKET=(\S+)")[1]
    command.until("stays up until Ctrl-C")

    def other(*words: str) -> str:
        status, out, err = Command(tmp_path, "--socket", socket, *words).end()
        assert status == 0, err
        return out

    assert other("attach", "guest1", "mem:1M") == "guest1:xvdb\n"
    assert other("list", "-q") == "guest1:xvda\nguest1:xvdb\n"
    assert json.loads(other("--json", "show", "guest1:xvdb"))["state"] == {
        "backend": "Connected", "frontend": "Connected"}
    other("detach", "guest1:xvdb")
    assert other("list", "-q") == "guest1:xvda\n"
    (tmp_path / "own.img").write_bytes(bytes(1 << 20))
    assert other("attach", "guest1", str(tmp_path / "own.img"), "xvdb") == "guest1:xvdb\n"
    command.signal(signal.SIGINT)
    assert command.end()[0] == 0


def test_a_program_is_told_the_socket_of_a_machine_that_stays(tmp_path: Path) -> None:
    command = Command(tmp_path, "--json", "sim", "--keep", *SHORT)
    report = json.loads(command.until("{")[0] and command.out)
    assert report["ok"] and report["hypervisor"].startswith("sim:")
    status, out, err = Command(tmp_path, "--socket", report["socket"], "list", "-q").end()
    assert (status, out) == (0, "guest1:xvda\n"), err
    command.signal(signal.SIGINT)
    assert command.end()[0] == 0 and json.loads(command.out) == report


def test_a_target_that_cannot_be_served_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    image = tmp_path / "odd.img"
    image.write_bytes(b"x" * 1000)
    status, _, err = Command(tmp_path, "sim", "--write-target", str(image)).end()
    assert status == 2 and "odd.img has 1000 bytes: expected a multiple of" in err
    assert [each.name for each in tmp_path.iterdir()] == ["odd.img"]
