"""The house's rule: a module imports only from lower layers, or from what stands before it in its own row.

The rows are those of the table in docs/architecture.md."""
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "xenvbd"
ROW = re.compile(r"^\| (\d) \| ([\w ]+) \|", re.M)

# Layer of each module and its place there; a package's name stands for all in it.
LAYER = {name: (int(layer), place) for layer, names in ROW.findall((TOP / "docs/architecture.md").read_text())
         for place, name in enumerate(names.split())}

IMPORT = re.compile(
    r"^\s*(?:from\s+xenvbd(?:\.(?P<mod>\w+)[\w.]*)?\s+c?import\s+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import\s+xenvbd\.(?P<direct>\w+))", re.M)


def room(path: Path) -> str:
    """The name in the table that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def imported(text: str) -> set[str]:
    """The rooms that a source text imports or cimports."""
    rooms = set()
    for match in IMPORT.finditer(text):
        if match["mod"] or match["direct"]:
            rooms.add(match["mod"] or match["direct"])
        else:
            rooms.update(re.findall(r"(\w+)(?:\s+as\s+\w+)?", re.sub(r"\s+as\s+\w+", "", match["names"])))
    return rooms


SOURCES = sorted(p for p in PACKAGE.rglob("*.py*") if p.suffix in (".py", ".pyi", ".pyx", ".pxd")
                 and not (p.parent == PACKAGE and p.stem == "__init__"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    own = room(path)
    assert own in LAYER, f"{own} is in no layer: add it to the table of docs/architecture.md"
    for other in imported(path.read_text()) - {own, "__version__"}:
        assert other in LAYER, f"{path.name} imports {other}, which is in no layer"
        assert LAYER[other] < LAYER[own], f"{own} (layer {LAYER[own][0]}) imports {other} (layer {LAYER[other][0]})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_by_full_names(path: Path) -> None:
    relative = re.findall(r"^\s*from\s+\.[\w.]*\s+c?import.*", path.read_text(), re.M)
    assert not relative, "say from xenvbd.x import y: the test of the layers reads that"


def test_every_source_file_says_in_its_first_lines_what_it_is_for() -> None:
    for path in SOURCES:
        if text := path.read_text():
            assert re.match(r'(#!.*\n)?(# .*\n)*("""|# )', text), f"{path.relative_to(TOP)} does not say what it is for"
