"""Fixtures of the real-Xen tests: the machine at a level, xenvbd in its dom0, a running guest.

Collected only when asked for by name (`pytest tests/xen`, `make test-xen`): `make test` needs no machine."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xen.guest import Guest
from tests.xen.lab import SUITE, Lab, cache_directory, kept, newest_package
from tests.xen.machine import Machine
from tests.xen.xenvbd import Xenvbd

HERE = Path(__file__).parent
TOP = HERE.parent.parent
LOGS = TOP / "build" / "xen"
FIRST_RELEASE = "e2ecde9"       # 0.1.0


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only when the command line names something here."""
    asked = (Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args)
    return None if any(path == HERE or HERE in path.parents for path in asked) else True


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Progress, on the terminal, past pytest's capture."""
    manager = request.config.pluginmanager.getplugin("capturemanager")

    def _say(text: str) -> None:
        with manager.global_and_fixture_disabled():
            print(f"\nxen: {text}", file=sys.stderr, flush=True)
    return _say


@pytest.fixture(scope="session")
def images(say: Callable[[str], None]) -> Path:
    """The images, built if they are not in the cache."""
    with subprocess.Popen([HERE / "build-images", cache_directory()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as builder:
        assert builder.stdout
        for line in builder.stdout:
            say(line.rstrip())
    assert builder.returncode == 0, "the images could not be built; see above"
    return cache_directory()


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package under test."""
    return newest_package(TOP)


@pytest.fixture(scope="session")
def first_release(say: Callable[[str], None]) -> Path:
    """The package of 0.1.0, built from its commit if it is not there."""
    directory = TOP / "dist" / SUITE / f"at-{FIRST_RELEASE}"
    if not list(directory.glob("python3-xenvbd_*.deb")):
        say(f"building the package of commit {FIRST_RELEASE} in {directory}")
        subprocess.run([TOP / "scripts/deb", "--at", FIRST_RELEASE], check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"DEB_BUILD_OPTIONS": "nocheck"})
    return next(directory.glob("python3-xenvbd_*.deb"))


@pytest.fixture(scope="session")
def lab(images: Path, package: Path, say: Callable[[str], None]) -> Iterator[Lab]:
    """The machine that all scenarios share."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    say(f"consoles and logs are kept in {LOGS}")
    with Machine(images, LOGS, earlier=kept(images, package)) as machine:
        found = Lab(machine, package, say)
        yield found
        found.keep()


@pytest.fixture
def logs(request: pytest.FixtureRequest) -> Path:
    """The directory of this scenario's consoles."""
    return LOGS / request.node.name.replace("/", "-")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Name the directory of the consoles in the report of a failure, and fill it."""
    outcome = yield
    report = outcome.get_result()                       # type: ignore[attr-defined]
    given = getattr(item, "funcargs", {})
    if report.failed and "lab" in given and "logs" in given:
        given["lab"].collect(given["logs"])
        report.sections.append(("consoles and logs", str(given["logs"])))


@pytest.fixture
def level(request: pytest.FixtureRequest, lab: Lab, logs: Path) -> str:
    """The machine at the level that the scenario's other fixtures name: "pv", "pvh", else "installed"."""
    name = next((name for name in ("pv", "pvh") if name in request.fixturenames), "installed")
    lab.at(name, logs)
    return name


@pytest.fixture
def xenvbd(lab: Lab, level: str) -> Xenvbd:
    """xenvbd in dom0, its daemon running."""
    return Xenvbd(lab.machine)


@pytest.fixture
def dom0(lab: Lab, level: str) -> Callable[..., str]:
    """Run a command in dom0."""
    return lab.machine.dom0


@pytest.fixture
def new_guest(lab: Lab, level: str) -> Callable[..., Guest]:
    """Create a guest: name, port, then Guest.create's arguments."""
    return lab.machine.guest


@pytest.fixture
def pv(lab: Lab, level: str) -> Guest:
    """A running PV guest, without a disk."""
    return lab.known("pv")


@pytest.fixture
def pvh(lab: Lab, level: str) -> Guest:
    """A running PVH guest, without a disk."""
    return lab.known("pvh")
