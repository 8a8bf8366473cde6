"""xenvbd-dm as libxl starts it: says "running" once the disks are offered, answers QMP, ends with the guest."""
import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host import SimHost, wait
from xenvbd import devicemodel
from xenvbd.errors import PropertyError
from xenvbd.store import Store
from xenvbd.store_sim import domain

PROGRAM = """
import sys
from dataclasses import replace
from xenvbd import config, devicemodel
directory = sys.argv[1]
settings = replace(config.Config(), hypervisor=f"sim:{directory}", runtime_dir=f"{directory}/run")
sys.exit(devicemodel.main(sys.argv[2:], settings))
"""
BACK = "/local/domain/0/backend/qdisk/1/51712"
STATE = "/local/domain/0/device-model/1/state"
# As libxl__build_device_model_args_new of 4.17 writes them for a PV guest.
LIBXL = ["-xen-domid", "1", "-no-shutdown", "-chardev", "socket,id=libxl-cmd,path={dir}/qmp-libxl-1,server=on,wait=off",
         "-mon", "chardev=libxl-cmd,mode=control",
         "-chardev", "socket,id=libxenstat-cmd,path={dir}/qmp-libxenstat-1,server=on,wait=off",
         "-mon", "chardev=libxenstat-cmd,mode=control", "-nodefaults", "-no-user-config", "-xen-attach",
         "-name", "web1", "-vnc", "none", "-display", "none", "-machine", "xenpv", "-m", "128"]


class Libxl:
    """The toolstack of domain 1."""

    def __init__(self, host: SimHost) -> None:
        self.host, self.store = host, Store(f"{host.directory}/store.0")
        self.processes: list[subprocess.Popen[str]] = []

    def disk(self, params: str, online: str = "1") -> None:
        """The areas of a qdisk, as libxl writes them."""
        front = "/local/domain/1/device/vbd/51712"
        nodes = {f"{BACK}/{name}": value for name, value in {
            "frontend": front, "params": params, "frontend-id": "1", "online": online, "state": "1", "dev": "xvda",
            "type": "qdisk", "mode": "w", "device-type": "disk"}.items()}
        nodes |= {f"{front}/backend": BACK, f"{front}/backend-id": "0", f"{front}/state": "1"}
        self.store.transaction(lambda tx: [tx.write(path, value) for path, value in nodes.items()] and None)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        words = [word.format(dir=self.host.directory) for word in (arguments or LIBXL)]
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, self.host.directory, *words], text=True,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.processes.append(process)
        return process

    def running(self) -> bool:
        return self.store.get(STATE) == b"running"

    def qmp(self, *commands: str) -> list[object]:
        """What the monitor answers, the greeting first."""
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as file:
            sock.settimeout(20)
            sock.connect(f"{self.host.directory}/qmp-libxl-1")
            answers = [json.loads(file.readline())]
            for command in commands:
                file.write(json.dumps({"execute": command, "id": 1}) + "\r\n")
                file.flush()
                answers.append(json.loads(file.readline()))
        return answers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.store.close()


@pytest.fixture
def host():
    with contextlib.closing(SimHost(domids=(0, 1))) as made:
        yield made.start()


@pytest.fixture
def libxl(host):
    with contextlib.closing(Libxl(host)) as made:
        yield made


def test_it_says_running_when_the_disk_is_offered_and_not_before(host, libxl):
    libxl.disk(f"aio:{host.image()}", online="0")           # which the daemon does not take yet
    process = libxl.start()
    wait(lambda: Path(f"{host.directory}/qmp-libxl-1").exists(), "it starts")
    libxl.qmp("qmp_capabilities", "query-status")
    assert not libxl.running()
    libxl.store.write(f"{BACK}/online", "1")
    wait(libxl.running, "it runs")
    assert libxl.store.read(f"{BACK}/state") == b"2" and process.poll() is None


def test_it_answers_what_libxl_asks(host, libxl):
    libxl.disk(f"aio:{host.image()}")
    libxl.start()
    wait(libxl.running, "it runs")
    greeting, *answers = libxl.qmp("qmp_capabilities", "query-chardev", "query-vnc", "query-version")
    assert greeting["QMP"]["version"]["qemu"]["major"] >= 4
    assert answers[0] == {"return": {}, "id": 1} and answers[2]["return"] == {"enabled": False}
    assert {"libxl-cmd", "libxenstat-cmd"} == {chardev["label"] for chardev in answers[1]["return"]}


@pytest.mark.parametrize("end", ["SIGHUP", "quit", "domain"])
def test_it_ends_with_the_guest_and_leaves_no_socket(host, libxl, end):
    libxl.disk(f"aio:{host.image()}")
    process = libxl.start()
    wait(libxl.running, "it runs")
    if end == "SIGHUP":
        process.send_signal(signal.SIGHUP)          # libxl's way
    elif end == "quit":
        libxl.qmp("quit")
    else:
        domain.destroy(libxl.store, 1)
    assert process.wait(20) == 0
    assert not list(Path(host.directory).glob("qmp-*"))


def test_a_disk_that_cannot_be_opened_is_its_end_with_the_reason(host, libxl):
    libxl.disk(f"aio:{host.directory}/nonexistent")
    process = libxl.start()
    assert process.wait(20) == 1 and not libxl.running()
    assert "nonexistent" in process.stderr.read()


def test_a_store_that_was_away_does_not_end_it(host, libxl):
    libxl.disk(f"aio:{host.image()}")
    process = libxl.start()
    wait(libxl.running, "it runs")
    host.store.kill()
    host.store.wait()
    host.start_store()
    wait(lambda: host.client.call("ping")["store"], "the manager is back")
    libxl.store.reconnect()
    domain.destroy(libxl.store, 1)
    assert process.wait(20) == 0


def test_without_the_daemon_no_guest_is_started(host, libxl):
    host.manager.kill()
    host.manager.wait()
    libxl.disk(f"aio:{host.image()}")
    process = libxl.start()
    assert process.wait(20) == 5 and "daemon" in process.stderr.read()


def test_a_guest_that_needs_qemu_for_more_is_refused(host, libxl):
    libxl.store.write("/libxl/1/device/vfb/0/backend", "x")
    process = libxl.start()
    assert process.wait(20) == 2 and "vfb" in process.stderr.read()


def test_a_daemon_that_does_not_claim_qdisk_is_no_help():
    with contextlib.closing(SimHost(domids=(0, 1), kinds="vbd3")) as host, \
            contextlib.closing(Libxl(host.start())) as libxl:
        process = libxl.start()
        assert process.wait(20) == 7 and 'kinds = ["qdisk"]' in process.stderr.read()


@pytest.mark.parametrize("arguments, words", [
    (["-machine", "xenpv"], "-xen-domid"), (["-xen-domid", "x", "-machine", "xenpv"], "-xen-domid"),
    (["-xen-domid", "1", "-machine", "xenfv,suppress-vmdesc=on"], "HVM")])
def test_what_is_no_pv_guest_s_command_line_is_refused(arguments, words):
    with pytest.raises(PropertyError, match=words):
        devicemodel.parse(arguments)


def test_sockets_may_be_inherited_and_paths_may_have_commas():
    orders = devicemodel.parse(["-xen-domid", "3", "-chardev", "socket,id=a,fd=5,server=on", "-mon",
                                "chardev=a,mode=control", "-chardev", "socket,id=b,path=/x,,y", "-machine", "xenpv"])
    assert orders.sockets == {"a": "fd:5", "b": "/x,y"} and orders.monitors == ["a"] and orders.domid == 3
