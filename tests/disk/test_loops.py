"""Loop devices are told by the file beneath them, not by the path that it once had."""
import os
from pathlib import Path

from xenvbd.disk import loops


def over(path: Path) -> list[str]:
    return [f"/dev/{loop.name}" for loop in loops.all_loops() if loop.is_over(path.stat())]


def test_a_loop_device_is_found_by_its_file(loop_device: Path, tmp_path: Path) -> None:
    assert over(tmp_path / "backing") == [str(loop_device)]


def test_a_file_that_was_renamed_is_still_found(loop_device: Path, tmp_path: Path) -> None:
    os.rename(tmp_path / "backing", tmp_path / "renamed")
    (tmp_path / "backing").write_bytes(bytes(4096))
    assert over(tmp_path / "renamed") == [str(loop_device)]
    assert over(tmp_path / "backing") == []


def test_a_loop_device_over_a_device_is_found(loop_device: Path, run) -> None:
    upper = Path(run("losetup", "--find", "--show", loop_device))
    try:
        assert over(loop_device) == [str(upper)]
    finally:
        run("losetup", "--detach", upper)


def test_it_says_whether_it_may_be_written(loop_device: Path, tmp_path: Path, run) -> None:
    reader = Path(run("losetup", "--find", "--show", "--read-only", tmp_path / "backing"))
    try:
        found = {f"/dev/{loop.name}": loop.read_only for loop in loops.all_loops()}
        assert found[str(loop_device)] is False and found[str(reader)] is True
    finally:
        run("losetup", "--detach", reader)


def test_where_its_node_is_missing_its_path_is_taken(tmp_path: Path) -> None:
    loop = tmp_path / "sys/block/loop7"
    (loop / "loop").mkdir(parents=True)
    (loop / "dev").write_text("7:7\n")
    (loop / "loop/backing_file").write_text("/image\n")
    (tmp_path / "image").touch()
    found, = loops.all_loops(root=str(tmp_path))
    assert found.rdev == os.makedev(7, 7) and found.is_over((tmp_path / "image").stat())
