"""A database on a guest's ext4 after a power cut: SQLite commits on a real one, a guest writes what the kernel wrote
below it, and the power goes at moments of chance, with any part of what was not flushed.

Each transaction whose commit had returned is there, each as a whole or not at all, and the database is sound."""
import contextlib
import hashlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.power.filesystem import live, trace, write, wrong
from tests.power.test_power import ALL

TRANSACTIONS, CUTS = (80, 150) if ALL else (8, 5)
ROWS = 5                            # of a transaction
# With a journal that is removed to commit, FULL does not sync the directory: such a commit may be taken back by a power
# cut, on any disk.  EXTRA does.
MODES = {"delete": "extra", "wal": "full"}


def content(transaction, row):
    return hashlib.shake_128(b"%d %d" % (transaction, row)).digest(300 + 700 * row)


def connect(place):
    return contextlib.closing(sqlite3.connect(place / "database", isolation_level=None))


def commit(place, mode):
    """Transactions: each one's number, and when its commit returned."""
    committed = []
    with connect(place) as database:
        assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        database.execute(f"pragma synchronous={MODES[mode]}")
        database.execute("pragma wal_autocheckpoint=20")        # pages: it is written back into the database too
        database.execute("create table rows (number integer, row integer, content blob, primary key (number, row))")
        for number in range(TRANSACTIONS):
            database.execute("begin immediate")
            for row in range(ROWS):
                database.execute("insert into rows values (?, ?, ?)", (number, row, content(number, row)))
            if number >= 4:
                database.execute("update rows set row = row + 100 where number = ?", (number - 4,))
            database.execute("commit")
            committed.append((str(number), time.monotonic_ns()))
    return committed


def look(place, promised):
    """What is wrong with the database that has these transactions at least."""
    if not (place / "database").exists():
        return ["there is no database"]
    with connect(place) as database:
        found = [f"not sound: {line}" for (line,) in database.execute("pragma integrity_check") if line != "ok"]
        rows = database.execute("select number, row, content from rows").fetchall()
    held = {number for number, _, _ in rows}
    last = max(held, default=-1)
    # No transaction but the next to come may be there beside those that were promised.
    found += [] if held == set(range(last + 1)) else [f"transactions are missing among {sorted(held)}"]
    found += [] if last >= max(map(int, promised)) else [f"the last is {last}, and {promised[-1]} was committed"]
    wanted = {(number, row + 100 * (number <= last - 4)): content(number, row)
              for number in range(last + 1) for row in range(ROWS)}
    are = {(number, row): data for number, row, data in rows}
    return found + ([] if are == wanted else ["rows are not as written"])


@pytest.fixture(scope="module", params=MODES)
def commits(request):
    """What the kernel wrote to the disk of an ext4 with a database."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return request.param, trace(Path(directory), lambda place: commit(place, request.param))
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no ext4 over FUSE and a loop device here: {getattr(exc, 'stderr', exc)!r}")


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_a_database_has_what_was_committed_and_is_sound_after_any_power_cut(machine, forker, commits, tmp_path, engine):
    mode, traced = commits
    life, cuts, image = live(machine, forker, traced, engine, tmp_path / "record"), 0, tmp_path / "image"
    for promised in life.cuts(image, random.Random(engine), CUTS):
        assert wrong(image, tmp_path / "place", lambda place: look(place, promised)) == []      # noqa: B023
        cuts += 1
    print(f"\n{engine}: {mode}, {TRANSACTIONS} transactions, {len(life.flushed)} flushes, {cuts} cuts", file=sys.stderr)
    assert cuts == CUTS and len(life.flushed) >= TRANSACTIONS, "each commit has flushed"


def test_a_disk_that_lost_a_commit_would_be_found(commits, tmp_path):
    """The judge can say no: as it was when a transaction was committed, and a later one is asked for."""
    writes = [(operation.offset, operation.data) for operation in commits[1].operations if operation.data is not None]
    write(tmp_path / "image", writes)
    promised = [what for _, what in commits[1].promises]
    assert wrong(tmp_path / "image", tmp_path / "place", lambda place: look(place, promised)) == []
    assert wrong(tmp_path / "image", tmp_path / "place", lambda place: look(place, [*promised, str(TRANSACTIONS)]))
    write(tmp_path / "image", writes[:len(writes) * 2 // 3])
    assert wrong(tmp_path / "image", tmp_path / "place", lambda place: look(place, promised))
