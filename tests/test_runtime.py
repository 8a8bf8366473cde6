"""The runtime directory: private, one manager at a time, nothing of a forgotten disk left."""
import os
import stat

import pytest

from xenvbd.errors import ClaimError
from xenvbd.runtime import Runtime


@pytest.fixture
def runtime(tmp_path):
    return Runtime(tmp_path / "run")


def test_the_directory_is_private_also_if_it_was_not(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    runtime = Runtime(tmp_path / "run")
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700


def test_only_one_manager_serves_in_a_directory_and_the_other_hears_which(runtime):
    fd = runtime.lock()
    with pytest.raises(ClaimError, match=f"process {os.getpid()}"):
        runtime.lock()
    os.close(fd)
    os.close(runtime.lock())


def test_a_new_file_is_private_empty_and_not_the_old_one(runtime):
    path = runtime.stats("vbd-7-51712", 0)
    old = runtime.new_file(path, 16)
    os.write(old, b"old")
    new = runtime.new_file(path, 8)
    assert os.read(new, 100) == bytes(8)
    assert stat.S_IMODE(os.fstat(new).st_mode) == 0o600
    os.close(old)
    os.close(new)


def test_a_forgotten_disk_leaves_nothing_and_others_stay(runtime):
    for key in ("vbd-7-51712", "vbd-7-5171"):
        runtime.save(key, {"created": True})
        os.close(runtime.new_file(runtime.journal(key, 0)))
        os.close(runtime.new_file(runtime.stats(key, 1)))
    runtime.forget("vbd-7-5171")
    assert sorted(os.listdir(runtime.path)) == [
        "vbd-7-51712.json", "vbd-7-51712.q0.journal", "vbd-7-51712.q1.stats"]
    assert list(runtime.records()) == [("vbd-7-51712", {"created": True})]


def test_workers_are_found_by_their_sockets(runtime):
    for name in ("worker-12.sock", "worker-3.sock", "worker-x.sock"):
        (runtime.path / name).touch()
    assert runtime.workers() == [3, 12]
