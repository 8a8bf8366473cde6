"""The load's options, and what a load may be let loose on."""
import argparse
from pathlib import Path

import pytest

from xenvbd.cli import parser, work
from xenvbd.errors import PropertyError


def parse(*words: str) -> argparse.Namespace:
    return parser.build().parse_args(["bench", *words])


def test_a_load_that_writes_needs_leave_to_overwrite_a_file(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"precious")
    with pytest.raises(PropertyError, match="--rw randwrite overwrites what is in it: give --write-target"):
        work.resolve(str(image), parse(str(image), "--rw", "randwrite"))
    assert work.resolve(str(image), parse(str(image), "--rw", "randwrite", "--write-target")).path == str(image)
    assert work.resolve(str(image), parse(str(image), "--rw", "randread")).path == str(image)


def test_memory_needs_no_leave() -> None:
    assert str(work.resolve("mem:1M", parse("mem:1M", "--rw", "randwrite"))) == "mem:1M"


def test_a_file_that_is_not_there_comes_with_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(PropertyError, match="there is no such file; make one: truncate -s 1G"):
        work.resolve(str(tmp_path / "no.img"), parse("no.img"))


def test_a_link_and_a_relative_path_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk.img").touch()
    (tmp_path / "link").symlink_to("disk.img")
    monkeypatch.chdir(tmp_path)
    assert work.resolve("link", parse("link")).path == str(tmp_path / "disk.img")


def test_only_the_directories_of_the_targets_are_allowed(tmp_path: Path) -> None:
    targets = [work.Target("file", path="/a/x"), work.Target("file", path="/a/y"), work.Target("mem", size=512)]
    assert work.allowed(targets) == ["/a"]
