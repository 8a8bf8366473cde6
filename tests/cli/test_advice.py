"""What a message advises exists: the options of the command, its verbs, the keys of the configuration."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import xenvbd
from xenvbd import config
from xenvbd.cli import parser

PACKAGE = Path(xenvbd.__file__).parent
# Of other programs that messages name: qemu-nbd, losetup.
OTHERS = {"--connect", "--format", "--detach"}


def options() -> set[str]:
    """All options of all verbs."""
    top = parser.build()
    verbs = next(action for action in top._actions if isinstance(action.choices, dict)).choices
    return {name for one in [top, *verbs.values()] for action in one._actions for name in action.option_strings}


def texts(path: Path) -> Iterator[str]:
    """The texts of a source, but for docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


SOURCES = [path for path in PACKAGE.rglob("*.py") if not {"frontend", "store_sim"} & set(path.parts)]
SAID = [(path, text) for path in SOURCES for text in texts(path) if " " in text]


def test_options_that_messages_name_exist() -> None:
    known = options() | OTHERS
    for path, text in SAID:
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert name in known, f"{path.name} names {name}: {text!r}"


def test_verbs_that_messages_name_exist() -> None:
    known = {verb.NAME for verb in parser.VERBS}
    for path, text in SAID:
        for name in re.findall(r"`xenvbd (?:--\S+ )*([a-z]+)", text):
            assert name in known, f"{path.name} names xenvbd {name}: {text!r}"


@pytest.mark.parametrize("text", [text for _, text in SAID if re.search(r"\b[a-z]+(-[a-z]+)+ = ", text)])
def test_keys_that_messages_name_exist(text: str) -> None:
    known = {name for keys in (*config.SECTIONS.values(), config.DISK_KEYS) for name in keys}
    assert set(re.findall(r"\b([a-z]+(?:-[a-z]+)+) = ", text)) <= known
