"""What the documents point to is there."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
# A file of this repository, named in a document: `docs/xenbus.md`, `xenvbd/trace.py`.
FILE = re.compile(r"`\.?/?((?:docs|include|man|scripts|tests|xenvbd)/[\w./-]*\.[a-z0-9]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    named = {path for path in FILE.findall(document.read_text()) if not path.endswith(".so")}
    assert not {path for path in named if not (TOP / path).exists()}


def test_the_commits_that_the_first_hour_walks_through_are_in_the_history() -> None:
    text = (TOP / "docs/first-hour.md").read_text()
    commits = re.findall(r"commit ([0-9a-f]{7,})", text)
    assert len(commits) == 3
    if not shutil.which("git"):
        return                                      # where packages are built there may be none
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=TOP, capture_output=True, text=True)
    if shallow.stdout.strip() == "false":           # not in an unpacked archive
        for commit in commits:
            subprocess.run(["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=TOP, check=True)
