"""attach, detach, list and show: what they ask the daemon, what they print, and how they end."""
import errno
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenvbd import doctor, errors

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]
DISK = {"disk": "web1:xvda", "domid": 7, "vdev": 51712, "name": "xvda", "size": 1 << 30, "mode": "rw",
        "target": "/srv/web1.img", "state": {"backend": "Connected", "frontend": "Connected"}, "stats": {"wakeups": 5}}


def test_list_prints_a_table(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["list"] = {"disks": [DISK]}
    assert xenvbd("list") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["web1:xvda", "7", "Connected", "1G"]


def test_list_is_names_when_quiet_and_an_array_for_programs(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["list"] = {"disks": [DISK]}
    xenvbd("list", "-q")
    assert capsys.readouterr().out == "web1:xvda\n"
    xenvbd("list", "--json")
    assert json.loads(capsys.readouterr().out) == [DISK]


@pytest.mark.parametrize(("name", "shown", "word"), [
    ("köln:xvda", "köln:xvda", "köln:xvda"), ("k\ufffdln:xvda", "'k\ufffdln:xvda'", "7:xvda"),
    ("a\nb:xvda", "$'a\\x0ab:xvda'", "7:xvda"), ("a b:xvda", "'a b:xvda'", "7:xvda"),
    ("$(id):xvda", "'$(id):xvda'", "7:xvda"),
    ("\u202eb:xvda", "$'\\xe2\\x80\\xaeb:xvda'", "7:xvda")])
def test_list_misleads_neither_a_terminal_nor_a_shell(name: str, shown: str, word: str, daemon: Any, xenvbd: Run,
                                                      capsys: Capture) -> None:
    daemon.answers["list"] = {"disks": [DISK | {"disk": name}]}
    xenvbd("list")
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{shown}  7 ")
    xenvbd("list", "-q")
    assert capsys.readouterr().out == f"{word}\n"
    xenvbd("list", "--json")
    assert json.loads(capsys.readouterr().out)[0]["disk"] == name


def test_what_is_said_of_a_name_is_escaped(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["show"] = errors.NoSuchDisk(errno.ENOENT, "no \x1b[2J", disk="a\nb:xvda")
    assert xenvbd("show", "a\nb:xvda") == 3
    assert capsys.readouterr().err == "xenvbd: $'a\\x0ab:xvda': no \\x1b[2J\n"


def test_list_of_a_domain_asks_for_it(daemon: Any, xenvbd: Run) -> None:
    daemon.answers["list"] = {"disks": []}
    xenvbd("list", "--domain", "web1")
    assert daemon.asked == [("list", {"domain": "web1"})]


def test_show_prints_facts_and_the_counters_when_verbose(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["show"] = DISK
    assert xenvbd("show", "web1:xvda") == 0
    assert "wakeups" not in capsys.readouterr().out
    xenvbd("-v", "show", "web1:xvda")
    assert "wakeups  5" in capsys.readouterr().out


def test_explain_tells_the_story_and_ends_with_its_status(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    steps = [("backend", "Initialising", 0), ("frontend", "Initialising", 0), ("backend", "InitWait", 0.041)]
    told = {"disk": "db2:xvdc", "vdev": 51744, "backend": "/local/domain/0/backend/vbd3/9/51744",
            "target": "/srv/db2.img", "size": 8 << 30, "seconds": 12.34, "verdict": "waiting",
            "why": "the guest has not answered InitWait",
            "look": ["in the guest: dmesg | grep xvdc"], "exit-status": 4,
            "states": [{"end": end, "state": state, "seconds": seconds} for end, state, seconds in steps]}
    daemon.answers["explain"] = told
    assert xenvbd("explain", "db2:xvdc") == 4
    assert capsys.readouterr().out.splitlines() == [
        "db2:xvdc (51744), backend /local/domain/0/backend/vbd3/9/51744",
        "  backend   Initialising -> InitWait 0.041 s, for 12.3 s",
        "  frontend  Initialising, for 12.3 s",
        "  target    /srv/db2.img, 8G",
        "waiting: the guest has not answered InitWait",
        "  in the guest: dmesg | grep xvdc"]
    assert xenvbd("explain", "db2:xvdc", "--json") == 4
    assert json.loads(capsys.readouterr().out) == told


def test_explain_has_no_times_of_a_disk_that_is_not_the_daemons(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["explain"] = {
        "disk": "db2:xvdc", "vdev": 51744, "backend": "/b", "target": None, "size": None, "seconds": None,
        "states": [{"end": "backend", "state": "Connected", "seconds": None}],
        "verdict": "refused", "why": "QEMU (process 9) has it", "look": [], "exit-status": 7}
    assert xenvbd("explain", "db2:xvdc") == 7
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  backend   Connected", "  frontend  -", "refused: QEMU (process 9) has it"]


def test_doctor_says_what_to_do_and_ends_with_the_gravest(
        xenvbd: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [doctor.Finding("ok", "xen", "Xen 4.20"),
                doctor.Finding("fail", "rivals", "tapback has it", "stop it", 7)]
    monkeypatch.setattr(doctor.Doctor, "findings", lambda self: findings)
    assert xenvbd("doctor") == 7
    assert capsys.readouterr().out == "ok    Xen 4.20\nfail  tapback has it\n      stop it\n"
    assert xenvbd("doctor", "-q") == 7
    assert capsys.readouterr().out == "fail  tapback has it\n      stop it\n"
    assert xenvbd("doctor", "--json") == 7
    shown = json.loads(capsys.readouterr().out)
    assert shown["exit-status"] == 7
    assert shown["findings"][1] == {"level": "fail", "check": "rivals", "found": "tapback has it", "fix": "stop it"}


def test_detach_is_silent_when_it_worked(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["detach"] = {}
    assert xenvbd("detach", "web1:51712", "--force") == 0
    assert capsys.readouterr() == ("", "")
    assert daemon.asked[0][1] == {"disk": "web1:xvda", "force": True, "wait": True, "timeout": 30.0}


def test_detach_says_for_programs_what_it_took(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["detach"] = {"disk": "web1:xvda"}
    assert xenvbd("detach", "web1:xvda", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"disk": "web1:xvda", "gone": True}


def test_resume_is_silent_when_it_worked(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["resume"] = DISK
    assert xenvbd("resume", "web1:xvda") == 0
    assert capsys.readouterr() == ("", "") and daemon.asked == [("resume", {"disk": "web1:xvda"})]


def test_resume_of_a_disk_that_had_not_stopped_says_so(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["resume"] = DISK | {"resumed": False}
    assert xenvbd("resume", "web1:xvda") == 0
    assert capsys.readouterr() == ("", "xenvbd: web1:xvda had not stopped: there was nothing to try again\n")


def test_attach_says_on_standard_error_what_should_be_known_of_the_disk(daemon: Any, xenvbd: Run,
                                                                      capsys: Capture) -> None:
    daemon.answers["attach"] = DISK | {"warnings": ["it looks odd"]}
    assert xenvbd("attach", "web1", "/srv/web1.img") == 0
    assert capsys.readouterr() == ("web1:xvda\n", "xenvbd: web1:xvda: warning: it looks odd\n")


@pytest.mark.parametrize(("words", "says"), [
    ("attach web1 /srv/a.img", "whether the disk is offered, and `xenvbd detach` takes it back"),
    ("detach web1:xvda", "the guest has been asked")])
def test_a_wait_that_ends_early_says_that_what_was_begun_goes_on(
        words: str, says: str, daemon: Any, xenvbd: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenvbd.cli.client.GRACE", 0.05)
    daemon.answers |= {"attach": lambda params: None, "detach": lambda params: None}
    monkeypatch.setattr(daemon, "dispatch", lambda verb, params, reply: None)
    daemon.server.dispatch = daemon.dispatch
    assert xenvbd("--timeout", "0", *words.split()) == 4 and says in capsys.readouterr().err

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xenvbd.control.Client.call", interrupt)
    assert xenvbd(*words.split()) == 130 and says in capsys.readouterr().err


def test_attach_prints_the_disks_name(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["attach"] = DISK
    assert xenvbd("attach", "web1", "/srv/web1.img", "xvda") == 0
    assert capsys.readouterr().out == "web1:xvda\n"
    assert daemon.asked[0][1] == {"domain": "web1", "target": "/srv/web1.img", "vdev": "xvda", "mode": "w",
                                  "wait": True, "timeout": 30.0}


@pytest.mark.parametrize(("words", "params"), [
    ("d.img", {"target": os.path.join(os.getcwd(), "d.img"), "mode": "w"}),
    ("null:1G xvdb --ro", {"target": "null:1G", "vdev": "xvdb", "mode": "r"}),
    ("/iso hdc --cdrom", {"target": "/iso", "vdev": "hdc", "mode": "r", "device-type": "cdrom"}),
    ("mem:1M --no-discard --no-wait", {"target": "mem:1M", "mode": "w", "discard-enable": False, "wait": False}),
    ("/x --sector-size 4096 --physical-sector-size 4096 --no-direct --ring-page-order 2",
     {"target": "/x", "mode": "w", "logical-block-size": 4096, "physical-block-size": 4096, "direct": False,
      "max-ring-page-order": 2}),
    ("/x,raw,xvda,ro", {"target": "/x", "vdev": "xvda", "mode": "r", "device-type": "disk"}),
    ("vdev=hdc,cdrom,target=/x,y.iso", {"target": "/x,y.iso", "vdev": "hdc", "mode": "r", "device-type": "cdrom"}),
    ("target=/x --ro", {"target": "/x", "mode": "r", "device-type": "disk"}),
])
def test_attach_asks_for_what_was_said(words: str, params: dict[str, Any], daemon: Any, xenvbd: Run) -> None:
    daemon.answers["attach"] = DISK
    assert xenvbd("attach", "web1", *words.split()) == 0
    assert daemon.asked[0][1] == {"domain": "web1", "wait": True, "timeout": 30.0} | params


@pytest.mark.parametrize(("spec", "says"), [
    ("qcow2:/x", "format qcow2 is not served, only raw is"),
    ("nbd:unix:/x", "unknown scheme 'nbd': expected /path, file:, raw:, aio:, null:SIZE or mem:SIZE"),
    ("null:0", "expected a multiple of 512"),
    ("vdev=xvda,format=raw", "names no medium: expected target=PATH"),
    ("backendtype=qdisk,vdev=xvda,target=/x", "backendtype=qdisk is for xl block-attach; leave it out here"),
    ("vdev=xvda,acces=ro,target=/x", "unknown parameter 'acces'"),
])
def test_a_target_that_is_wrong_is_a_usage_error(spec: str, says: str, xenvbd: Run, capsys: Capture) -> None:
    assert xenvbd("attach", "web1", spec) == errors.USAGE
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status", "says"), [
    (errors.NoSuchDisk(errno.ENOENT, "no such disk", disk="web1:xvda"), 3,
     "xenvbd: web1:xvda: no such disk\n"),
    (errors.StoreError(errno.EACCES, "not allowed", path="/local/domain"), 1, "xenvbd: /local/domain: not allowed\n"),
    (errors.Error(errno.ETIMEDOUT, "no answer", disk="web1:xvda"), 4, "xenvbd: web1:xvda: no answer\n"),
    (errors.ClaimError(errno.EBUSY, "xen-blkback has it"), 7, "xenvbd: xen-blkback has it\n"),
    (errors.PolicyError(errno.EPERM, "outside of allow", path="/etc/shadow"), 7, "`allow` under [targets]"),
    (errors.PropertyError(errno.EINVAL, "vdev is taken"), 2, "xenvbd: vdev is taken\n"),
])
def test_the_daemons_errors_become_the_exit_status_and_a_next_step(
        error: OSError, status: int, says: str, daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["show"] = error
    assert xenvbd("show", "web1:xvda") == status
    assert says in capsys.readouterr().err


def test_without_a_daemon_the_socket_is_named_and_the_status_is_5(xenvbd: Run, capsys: Capture) -> None:
    assert xenvbd("list") == 5
    said = capsys.readouterr().err
    assert "control.sock: the daemon cannot be reached" in said and "xenvbd serve" in said


def test_errors_are_json_too(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["show"] = errors.NoSuchDisk(errno.ENOENT, "no such disk", disk="web1:xvda")
    assert xenvbd("--json", "show", "web1:xvda") == 3
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["class"], error["disk"], error["exit-status"]) == ("NoSuchDisk", "web1:xvda", 3)


def test_a_fault_of_ours_is_called_one_and_shows_where_only_when_asked(
        daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers["list"] = {"discs": []}
    assert xenvbd("list") == 1
    said = capsys.readouterr().err
    assert said.startswith("xenvbd: internal error: KeyError: 'disks'\n") and "Traceback" not in said
    xenvbd("-v", "list")
    assert "Traceback" in capsys.readouterr().err


def test_restart_of_a_worker_asks_for_it_and_says_which_process_serves_now(daemon: Any, xenvbd: Run,
                                                                           capsys: Capture) -> None:
    daemon.answers["restart"] = {"disk": "web1:xvda", "domid": 3, "was": 10, "pid": 11,
                                 "disks": ["web1:xvda", "web1:xvdb"]}
    assert xenvbd("restart", "--worker", "web1:xvda") == 0
    assert daemon.asked == [("restart", {"disk": "web1:xvda", "timeout": 30.0})]
    assert capsys.readouterr().out.splitlines() == [
        "web1:xvda: served on by process 11", "web1:xvdb: served on by process 11"]


def test_restart_of_all_begins_with_the_manager_and_waits_for_the_next(daemon: Any, xenvbd: Run,
                                                                       capsys: Capture) -> None:
    starts = iter([1.0, 1.0, 2.0])
    daemon.answers = {
        "restart": lambda params: {"disk": params["disk"], "pid": 11} if params else {"pid": 5, "started": 1.0},
        "ping": lambda params: {"pid": 5, "version": "1", "started": next(starts)},
        "list": {"disks": [DISK | {"domid": 3, "pid": 10, "plane": "running"},
                           DISK | {"domid": 3, "pid": 10, "plane": "running", "name": "xvdb"},
                           DISK | {"domid": 4, "pid": 12, "plane": "none", "disk": "web2:xvda"}]}}
    assert xenvbd("restart", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"disk": None, "domid": None, "was": None, "pid": 5, "version": "1"},
        {"disk": "3:xvdb", "domid": None, "was": None, "pid": 11, "version": None}]


def test_restart_of_all_goes_on_with_the_others_and_says_what_was_done(daemon: Any, xenvbd: Run,
                                                                       capsys: Capture) -> None:
    starts = iter([1.0, 2.0])

    def restart(params: dict[str, Any]) -> Any:
        if params.get("disk") == "3:xvda":
            return errors.PolicyError(errno.EBUSY, "its content is in memory", disk="web1:xvda")
        return {"disk": "web2:xvda", "pid": 11} if params else {"pid": 5, "started": 1.0}

    daemon.answers = {
        "restart": restart, "ping": lambda params: {"pid": 5, "version": "1", "started": next(starts)},
        "list": {"disks": [DISK | {"domid": 3, "pid": 10, "plane": "running"},
                           DISK | {"domid": 4, "pid": 12, "plane": "running", "disk": "web2:xvda"}]}}
    assert xenvbd("restart", "--all") == 7
    assert capsys.readouterr().err.startswith(
        "xenvbd: web1:xvda: its content is in memory (replaced: the manager, web2:xvda)\n")


def test_restart_of_a_manager_that_does_not_come_back_times_out(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    daemon.answers = {"restart": {"pid": 5, "started": 1.0}, "ping": {"pid": 5, "started": 1.0}}
    assert xenvbd("--timeout", "0.2", "restart", "--manager") == 4
    assert "workers serve on" in capsys.readouterr().err


def test_restart_that_replaced_nothing_says_so(daemon: Any, xenvbd: Run, capsys: Capture) -> None:
    starts = iter([1.0, 2.0])
    daemon.answers = {
        "restart": lambda params: {"disk": "web1:xvda", "pid": None, "was": 9} if params else {
            "pid": 5, "started": 1.0},
        "ping": lambda params: {"pid": 5, "version": "1", "started": next(starts)}, "list": {"disks": []}}
    assert xenvbd("restart", "--all") == 0
    assert capsys.readouterr().err == "xenvbd: no worker was replaced: there is no connected disk\n"
    assert xenvbd("restart", "--worker", "web1:xvda") == 0
    assert "its worker (process 9) has ended, and no disk of the domain was connected" in capsys.readouterr().err


def test_restart_needs_to_be_told_what(daemon: Any, xenvbd: Run) -> None:
    with pytest.raises(SystemExit):
        xenvbd("restart")
