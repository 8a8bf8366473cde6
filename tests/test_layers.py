"""The house's rule: a module imports only from lower layers.  The table is docs/architecture.md's."""
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "xenvbd"

# Layer of each module; a package's name stands for all in it.  Modules of one package may import each other.
LAYERS = {
    0: ["errors", "vdev", "target", "units", "trace", "loop"],
    1: ["ring", "hv", "store", "store_sim", "wire", "runtime", "stats"],
    2: ["disk", "request", "journal", "xenbus", "features"],
    3: ["dataplane", "frontend"],
    4: ["worker", "workers", "device"],
    5: ["backend", "config", "control"],
    6: ["service"],
    7: ["cli"],
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}

IMPORT = re.compile(
    r"^\s*(?:from\s+xenvbd(?:\.(?P<mod>\w+)[\w.]*)?\s+c?import\s+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import\s+xenvbd\.(?P<direct>\w+))", re.M)


def room(path: Path) -> str:
    """The name in LAYERS that a file belongs to."""
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


SOURCES = sorted(p for p in PACKAGE.rglob("*.py*") if p.suffix in (".py", ".pyx", ".pxd") and p.parent != PACKAGE
                 or p.parent == PACKAGE and p.suffix in (".py", ".pyx", ".pxd") and p.stem != "__init__")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    own = room(path)
    assert own in LAYER, f"{own} is in no layer: add it to docs/architecture.md and to LAYERS"
    for other in imported(path.read_text()) - {own, "__version__"}:
        assert other in LAYER, f"{path.name} imports {other}, which is in no layer"
        assert LAYER[other] < LAYER[own], f"{path.name} (layer {LAYER[own]}) imports {other} (layer {LAYER[other]})"


def test_every_source_file_says_in_its_first_lines_what_it_is_for() -> None:
    for path in SOURCES:
        if text := path.read_text():
            assert re.match(r'(#!.*\n)?(# .*\n)*("""|# )', text), f"{path.relative_to(TOP)} does not say what it is for"
