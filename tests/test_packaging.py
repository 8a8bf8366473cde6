"""What the Debian package ships beside the code: the configuration, the init script, the unit; what it builds with."""
import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xenvbd import __version__, config, errors, hv, sandbox

TOP = Path(__file__).parents[1]
SHIPPED = (TOP / "conf/xenvbd.toml").read_text()
INIT = TOP / "debian/python3-xenvbd.xenvbd.init"
UNIT = TOP / "debian/python3-xenvbd.xenvbd.service"


def uncommented() -> str:
    """The shipped configuration with every key of it in force."""
    return re.sub(r"^#(?=\S)", "", SHIPPED, flags=re.M)


def test_the_shipped_configuration_changes_nothing() -> None:
    assert config.loads(SHIPPED) == config.Config()


def test_what_it_says_is_the_default_is_the_default() -> None:
    found = config.loads(uncommented())
    assert dataclasses.replace(found, disks=()) == config.Config()
    assert found.options_of("web1:xvda") != found.options == found.options_of("web1:xvdb")


@pytest.mark.parametrize("section", ["backend", "targets", "log"])
def test_every_key_stands_in_its_section(section: str) -> None:
    text = re.split(r"^#?\[", uncommented(), flags=re.M)
    body = next(part for part in text if part.startswith(section))
    expected = [*config.SECTIONS[section], *(config.DISK_KEYS if section == "backend" else ())]
    assert sorted(re.findall(r"^([a-z-]+) =", body, re.M)) == sorted(expected)


def init(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", INIT, *words], capture_output=True, text=True, check=False, timeout=30)


def test_the_init_script_is_a_shell_script_and_says_its_dependencies() -> None:
    subprocess.run(["dash", "-n", INIT], check=True, timeout=30)
    header = INIT.read_text().split("### END INIT INFO")[0]
    assert re.search(r"^# Provides: +xenvbd$", header, re.M)
    assert re.search(r"^# X-Start-Before: +xendomains$", header, re.M)
    assert re.search(r"^# Should-Start: +xen\b", header, re.M)


@pytest.mark.skipif(Path("/usr/bin/xenvbd").exists(), reason="the package is installed here")
@pytest.mark.parametrize(("verb", "status"), [("start", 5), ("restart", 5), ("reload", 5), ("stop", 0), ("status", 4)])
def test_without_the_command_its_exit_statuses_are_lsbs(verb: str, status: int) -> None:
    assert init(verb).returncode == status


def test_the_unit_does_not_try_again_what_cannot_succeed() -> None:
    found = re.search(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.M)
    hopeless = {errors.USAGE, errors.NO_XEN, errors.REFUSED}
    assert found and {int(status) for status in found[1].split()} == hopeless


def test_a_stop_of_the_unit_leaves_the_workers_and_their_directory() -> None:
    lines = UNIT.read_text().splitlines()
    assert {"KillMode=process", "RuntimeDirectoryPreserve=yes", "Type=notify"} <= set(lines)
    # These would shut off /dev/xen and the block devices that are to be served, or openat2() that opens them.
    harmful = re.compile("(PrivateDevices|RestrictSUIDSGID)=")
    assert not [line for line in lines if harmful.match(line)]
    # All of either kind, for a name is only looked at when the unit starts: too early for modules, or for a new disk.
    assert [line for line in lines if line.startswith("DeviceAllow=")] == [
        "DeviceAllow=block-* rw", "DeviceAllow=char-misc rw"]


def test_make_deb_installs_all_that_the_package_is_built_with() -> None:
    control = re.search(r"^Build-Depends:(.*?)^\S", (TOP / "debian/control").read_text(), re.M | re.S)
    assert control
    wanted = [{re.split(r"[ :]", name.strip())[0] for name in item.split("|")} for item in control[1].split(",")]
    virtual = {"debhelper-compat": "debhelper", "dh-sequence-python3": "dh-python",
               "dh-sequence-bash-completion": "bash-completion"}
    listed = re.sub(r"#.*|\|", " ", (TOP / "scripts/packages.txt").read_text()).split()
    assert [names for names in wanted if not {virtual.get(name, name) for name in names} & set(listed)] == []


def test_the_workers_user_may_use_what_a_worker_opens() -> None:
    rule = (TOP / "debian/python3-xenvbd.udev").read_text()
    kernel = re.search(r'KERNEL=="([^"]*)"', rule)
    assert kernel and {f"/dev/{name}" for name in kernel[1].split("|")} == {path for path, _ in hv.places("xen")}
    assert f'GROUP="{sandbox.USER}", MODE="0660"' in rule
    made = (TOP / "debian/python3-xenvbd.postinst").read_text()
    assert re.search(rf"adduser .*--system --group .* {sandbox.USER}$", made, re.M)
    for path, _ in hv.places("xen"):
        assert path in made


def test_a_package_of_a_commit_that_is_not_here_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    if not shutil.which("git"):
        return                                      # where packages are built there may be none
    script = tmp_path / "scripts/deb"
    script.parent.mkdir()
    shutil.copy(TOP / "scripts/deb", script)

    def refusal() -> str:
        done = subprocess.run([script, "--at", "e2ecde9"], check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        return done.stderr

    assert refusal() == f"deb: --at takes a commit from git, and {tmp_path} is no clone\n"
    subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=30)
    assert "commit 'e2ecde9' is not in this clone: " in refusal() and "'git fetch'" in refusal()
    (tmp_path / ".git/shallow").write_text("e2ecde9c" * 5 + "\n")
    assert "'git fetch --unshallow'" in refusal()


def test_the_versions_are_one() -> None:
    """Debian sorts 0.2.0~dev before 0.2.0; Python writes the same as 0.2.0.dev0."""
    python = re.search(r'^version = "(.*)"$', (TOP / "pyproject.toml").read_text(), re.M)
    debian = re.match(r"xenvbd \((.*)-\d+\) ", (TOP / "debian/changelog").read_text())
    assert python and debian
    assert debian[1] == __version__
    assert python[1] == re.sub(r"~dev$", ".dev0", __version__)
