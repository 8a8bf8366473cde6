"""Who runs when scripts/bench and scripts/compare measure."""
import json
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


@pytest.fixture
def contestants(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOP / "scripts/bench.d"))
    import contestants
    return contestants


def other_tree(top: Path, iops: int) -> Path:
    """A tree whose xenvbd measures nothing, and always says the same."""
    said = {"iops": iops, "cpu-us": {"backend": 0}, "per-request": {"events-out": 0, "events-in": 0, "submits": 0},
            "p50-us": 0, "p99-us": 0, "p99.9-us": 0}
    package = top / "xenvbd/cli"
    package.mkdir(parents=True)
    (top / "xenvbd/__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"print('''{json.dumps(said)}''')\n")
    return top


def test_another_commit_is_measured_by_its_own_tree(contestants, tmp_path: Path) -> None:
    tree = other_tree(tmp_path, 4711)
    case = contestants.Case("randread", 4096, 32, "null")
    assert contestants.Xenvbd(top=tree).run(case, tmp_path / "none", 0.1).iops == 4711


def test_the_image_is_found_from_any_tree(contestants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = contestants.Case("randread", 4096, 32)
    command = contestants.Xenvbd(top=tmp_path).command(case, Path("disk.img"), 0.1)
    assert str(tmp_path / "disk.img") in command and sys.executable in command


def test_several_rings_on_all_processors_are_held_against_one_ring_on_one(contestants, tmp_path: Path) -> None:
    several, one = contestants.Case("randread", 4096, 32, queues=2), contestants.Case("randread", 4096, 32)
    ring = contestants.OneRing(top=tmp_path)
    assert ring.able(several) and not ring.able(one)
    command = ring.command(several, Path("disk.img"), 0.1)
    assert command[:3] == ["taskset", "--cpu-list", "1"] and command[command.index("--queues") + 1] == "1"
