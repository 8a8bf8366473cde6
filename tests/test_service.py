"""The daemon's own life: one at a time, what it tells systemd, how it ends."""
import dataclasses
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from xenvbd import service
from xenvbd.config import Config
from xenvbd.control import Client
from xenvbd.errors import ClaimError, StoreError
from xenvbd.hv import sim
from xenvbd.service import Service, notify, serve
from xenvbd.store_sim import SimStore


@pytest.fixture
def config():
    """The configuration of a simulated host whose store runs in this process."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        sim.Machine.create(directory).add_domain(7)
        with SimStore(directory, (0, 7)):
            yield dataclasses.replace(Config(), hypervisor=f"sim:{directory}", runtime_dir=f"{directory}/run",
                                      kinds=("qdisk",), allow=(directory,))


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """systemd's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.fixture(autouse=True)
def handlers():
    """The signals' handlers are this process's again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def running(made, during):
    """Run the service, during() in a thread; it ends the service by a signal."""
    failures = []

    def act():
        try:
            during()
        except BaseException as exc:
            failures.append(exc)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=act)
    made.loop.soon(thread.start)
    made.run()
    thread.join()
    assert not failures, failures


def test_it_tells_systemd_when_it_is_ready_and_when_it_stops(config, systemd):
    running(Service(config), lambda: None)
    assert systemd.recv(100) == b"READY=1\nSTATUS=serving" and systemd.recv(100) == b"STOPPING=1"


def test_without_systemd_nobody_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_a_second_manager_elsewhere_is_refused_for_the_same_kinds_and_replaces_nothing(config, tmp_path):
    other = tmp_path / "other"
    served = Service(config)
    code = ("import sys; from dataclasses import replace; from xenvbd import config, service; "
            "hypervisor, place, control, *kinds = sys.argv[1:]; "
            "sys.exit(service.serve(replace(config.Config(), hypervisor=hypervisor, runtime_dir=place, socket=control, "
            "kinds=tuple(kinds))))")

    def second(*kinds):
        command = [sys.executable, "-c", code, config.hypervisor, str(other), config.control, *kinds]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def look():
        refused = second(*config.kinds)
        assert refused.returncode == 7
        assert f"another xenvbd (process {os.getpid()}, runtime directory" in refused.stderr
        listened = second("vbd3" if "vbd3" not in config.kinds else "qdisk")
        assert listened.returncode == 7 and "another xenvbd listens there" in listened.stderr
        assert Client(config.control).call("ping")["pid"] == os.getpid()

    running(served, look)


def test_a_second_manager_is_refused_and_harms_nothing(config):
    made = Service(config)
    with pytest.raises(ClaimError, match="another xenvbd"):
        Service(config)
    running(made, lambda: Client(config.control).call("ping"))


def test_it_answers_on_its_socket_and_takes_it_away_at_the_end(config):
    answers = []
    running(Service(config), lambda: answers.append(Client(config.control).call("ping")))
    assert answers[0]["pid"] == os.getpid() and answers[0]["kinds"] == ["qdisk"]
    assert not os.path.exists(config.control)


def test_sighup_takes_the_new_configuration_for_what_comes(config, systemd):
    changed = dataclasses.replace(config, allow=("/elsewhere",))
    made = Service(config, lambda: changed)

    def reload():
        os.kill(os.getpid(), signal.SIGHUP)
        while systemd.recv(100) != b"RELOADING=1":
            pass
        with pytest.raises(OSError, match="/elsewhere"):
            Client(config.control).call("attach", domain="7", target=f"{config.runtime_dir}/x", vdev="xvda")

    systemd.setblocking(True)
    running(made, reload)


def test_a_wrong_configuration_leaves_the_old_one(config):
    def broken():
        raise OSError("no")

    made = Service(config, broken)
    made.reload()
    running(made, lambda: Client(config.control).call("attach", domain="7", target="mem:1M", vdev="xvda", wait=False))


def test_its_end_leaves_no_descriptor(config):
    before = len(os.listdir("/proc/self/fd"))
    running(Service(config), lambda: Client(config.control).call("list"))
    deadline = time.monotonic() + 10        # the store of this process hangs up when it notices
    while len(os.listdir("/proc/self/fd")) > before + 3:        # of the machine's directory, joined once a process
        assert time.monotonic() < deadline, "a descriptor was left open"
        time.sleep(0.01)


def test_serve_says_with_its_status_why_it_could_not(config, tmp_path):
    assert serve(dataclasses.replace(config, hypervisor=f"sim:{tmp_path}/nowhere")) == 1
    made = Service(config)
    assert serve(config) == 7
    made.close()


def test_the_descriptors_that_the_system_allows_are_used_and_no_core_is_left(config, monkeypatch):
    limits = {}
    monkeypatch.setattr(service.resource, "setrlimit", lambda which, pair: limits.update({which: pair}))
    made = Service(config)
    serve(config)
    made.close()
    soft, hard = limits[resource.RLIMIT_NOFILE]
    assert soft == hard
    assert limits[resource.RLIMIT_CORE] == (0, 0)


def test_a_store_that_refuses_after_it_came_back_is_asked_again(config, monkeypatch):
    """Not all had been looked at then."""
    returned, made = [], Service(config)

    def refusing():
        returned.append(made.store.connected)
        if len(returned) < 3:
            raise StoreError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(made.backend, "store_returned", refusing)
    made._store_lost(StoreError(errno.ECONNRESET, "gone"))
    made._reconnect(0.001)
    deadline = time.monotonic() + 20
    while len(returned) < 3:
        assert time.monotonic() < deadline
        made.loop.run_once(0.05)
    assert all(returned) and not made._reconnecting
    made.close()


def test_without_memory_the_manager_starts_again(config, monkeypatch):
    made, began = Service(config), []
    monkeypatch.setattr(service, "again", lambda: began.append(True))

    def exhausted():
        raise MemoryError

    made.loop.soon(exhausted)
    made.run()
    assert began == [True]
