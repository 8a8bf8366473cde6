"""The style that a program can check: sizes, what the I/O thread may be made of, what must not be in a repository."""
import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "xenvbd"
MAX_FILE = 450
MAX_TEST_FILE = 700
MAX_FUNCTION = 60

# Everything that git would take, built files, the licence's text and what fuzzing found aside.
LISTED = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP,
                        capture_output=True, text=True, check=False).stdout if shutil.which("git") else ""
FILES = [TOP / name for name in LISTED.splitlines()
         if (TOP / name).is_file() and name != "LICENSE" and not name.startswith("tests/fuzz/corpus/")]
if not FILES:                               # an unpacked archive: there is no git
    FILES = [p for top in ("xenvbd", "include", "tests", "docs", "scripts") for p in (TOP / top).rglob("*.*")
             if p.is_file() and p.suffix not in (".so", ".pyc")]
SOURCES = [p for p in FILES if p.suffix in (".py", ".pyi", ".pyx", ".pxd", ".c", ".h")]
CYTHON = [p for p in SOURCES if p.suffix in (".pyx", ".pxd")]
C = [p for p in SOURCES if p.suffix in (".c", ".h")]

NOGIL = re.compile(r"^(?!.*\bextern\b).*\bc(?:def|pdef)\b[^:=\n]*\([^\n]*\)[^\n]*\bnogil\b[^\n]*$", re.M)


def name(path: Path) -> str:
    return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", CYTHON, ids=name)
def test_every_nogil_function_of_ours_is_noexcept(path: Path) -> None:
    """Without noexcept, Cython 3 takes the GIL after each call to look for an exception: 85 to 104 ns."""
    text = re.sub(r"\(\s*\n\s*|,\s*\n\s*", ", ", re.sub(r"#.*", "", path.read_text()))
    bad = [line.strip() for line in NOGIL.findall(text) if "noexcept" not in line]
    assert not bad


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_not_too_long(path: Path) -> None:
    limit = MAX_TEST_FILE if TOP / "tests" in path.parents else MAX_FILE
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".py"], ids=name)
def test_a_python_function_is_not_too_long(path: Path) -> None:
    functions = (node for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION]
    assert not long


def cython_functions(text: str) -> list[tuple[str, int]]:
    """Name and length of each function: from its def to the last line that is indented deeper."""
    lines = text.splitlines()
    found = []
    for start, line in enumerate(lines):
        if not re.match(r"\s*(?:cdef|cpdef|def)\b(?!\s+(?:class|extern|enum|struct|packed|union)\b).*\(", line):
            continue
        indent, end = len(line) - len(line.lstrip()), start
        for at in range(start + 1, len(lines)):
            if lines[at].strip() and len(lines[at]) - len(lines[at].lstrip()) <= indent and lines[at].strip() != "):":
                break
            end = at if lines[at].strip() else end
        found.append((line.strip(), end - start + 1))
    return found


@pytest.mark.parametrize("path", [p for p in CYTHON if p.suffix == ".pyx"], ids=name)
def test_a_cython_function_is_not_too_long(path: Path) -> None:
    assert not [head for head, length in cython_functions(path.read_text()) if length > MAX_FUNCTION]


@pytest.mark.parametrize("path", C, ids=name)
def test_a_c_function_is_not_too_long(path: Path) -> None:
    bodies = re.findall(r"^\{\n(.*?)^\}", path.read_text(), re.M | re.S)
    assert all(body.count("\n") <= MAX_FUNCTION for body in bodies)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_left_for_later_and_no_path_is_this_machines(path: Path) -> None:
    if path == Path(__file__) or path.name == "CONTRIBUTING.md":
        return
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert not re.search(r"/work/|/home/\w|/Users/", text)


@pytest.mark.parametrize("path", [p for p in SOURCES if PACKAGE in p.parents], ids=name)
def test_no_exception_is_swallowed_whole(path: Path) -> None:
    assert not re.search(r"except(?: Exception| BaseException)?:\s*\n\s*pass\b", path.read_text())
