"""The hotplug script block-xenvbd as libxl calls it, with the real xenstore commands and a real daemon."""
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host import SimHost, wait
from xenvbd.store import Store

TOP = Path(__file__).parent.parent
SCRIPT = TOP / "scripts/block-xenvbd"
AREA = "/local/domain/0/backend/vbd/1/51712"
FRONT = "/local/domain/1/device/vbd/51712"

pytestmark = pytest.mark.skipif(not shutil.which("xenstore-write"), reason="needs xenstore-utils")


@pytest.fixture
def host():
    with contextlib.closing(SimHost(domids=(0, 1), kinds="vbd,vbd3")) as made:
        yield made.start()


@pytest.fixture
def store(host):
    with Store(f"{host.directory}/store.0") as made:
        yield made


def disk(host, store, params, state="2", area=AREA):
    """libxl's areas of a disk with backendtype=phy, or tap; back when the daemon has got to a state."""
    nodes = {f"{area}/{name}": value for name, value in {
        "frontend": FRONT, "params": params, "script": str(SCRIPT), "frontend-id": "1", "online": "1", "state": "1",
        "dev": "xvda", "type": "phy", "mode": "w", "device-type": "disk"}.items()}
    nodes |= {f"{FRONT}/backend": area, f"{FRONT}/backend-id": "0", f"{FRONT}/state": "1"}
    store.transaction(lambda tx: [tx.write(path, value) for path, value in nodes.items()] and None)
    wait(lambda: store.get(f"{area}/state") == state.encode(), f"state {state}")


def run(host, *words, path="backend/vbd/1/51712"):
    """The script with libxl's environment; its status and what it said."""
    command = host.path / "bin"
    command.mkdir(exist_ok=True)
    (command / "xenvbd").write_text(f'#!/bin/sh\nexec {sys.executable} -m xenvbd.cli "$@"\n')
    (command / "xenvbd").chmod(0o755)
    env = {"PATH": f"{command}:{os.environ['PATH']}", "PYTHONPATH": str(TOP), "script": str(SCRIPT),
           "XENVBD_SOCKET": f"{host.directory}/run/control.sock", "XENSTORED_PATH": f"{host.directory}/store.0",
           "XENBUS_TYPE": "vbd", "XENBUS_PATH": path, "XENBUS_BASE_PATH": "backend"}
    done = subprocess.run([SCRIPT, *words], env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def node(store, name, area=AREA):
    value = store.get(f"{area}/{name}")
    return None if value is None else value.decode()


def test_a_disk_that_the_daemon_offers_is_connected_and_its_path_written(host, store):
    image = host.image("a:b.img")
    disk(host, store, f"aio:{image}")
    assert run(host, "add") == (0, "")
    assert node(store, "physical-device-path") == image and node(store, "hotplug-status") == "connected"
    assert run(host, "remove") == (0, "")


def test_a_target_without_a_path_has_no_device(host, store):
    disk(host, store, "mem:1M")
    assert run(host, "add") == (0, "")
    assert node(store, "physical-device-path") is None


def test_of_a_vbd3_no_path_is_written_that_libxl_would_take_for_a_socket(host, store):
    area = AREA.replace("/vbd/", "/vbd3/")
    disk(host, store, f"aio:{host.image('a.img')}", area=area)
    assert run(host, "add", path="backend/vbd3/1/51712") == (0, "")
    assert node(store, "physical-device-path", area) is None and node(store, "hotplug-status", area) == "connected"


def test_a_disk_that_the_daemon_does_not_serve_fails_with_the_reason(host, store):
    disk(host, store, "mem:1M")
    host.manager.kill()
    host.manager.wait()
    status, said = run(host, "add")
    assert status == 1 and "does not serve it" in said
    assert node(store, "hotplug-status") == "error" and "does not serve it" in node(store, "hotplug-error")


def test_an_area_that_is_gone_is_not_made_again(host, store):
    assert run(host, "add")[0] == 1
    assert not store.exists(AREA)
    assert run(host, "remove") == (0, "")


@pytest.mark.parametrize("words, path", [((), "backend/vbd/1/51712"), (("change",), "backend/vbd/1/51712"),
                                         (("add",), "backend/vbd"), (("add",), "")])
def test_a_wrong_call_is_told_how_it_is_called(host, words, path):
    status, said = run(host, *words, path=path)
    assert status == 2 and said.startswith("usage:")
