"""Descriptors that a manager leaves to the next: through exec, and in systemd's store."""
import array
import json
import os
import socket

import pytest

from xenvbd import handover
from xenvbd.images import Images, Tenant


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """systemd's end of the notification socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield sock
    sock.close()


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def received(sock):
    """A message's lines, and the inode of the descriptor that came with it."""
    data, ancillary, _, _ = sock.recvmsg(4096, 64)
    fds = array.array("i")
    for _, _, raw in ancillary:
        fds.frombytes(raw)
    inodes = [os.fstat(fd).st_ino for fd in fds]
    for each in fds:
        os.close(each)
    return data.decode().splitlines(), inodes


def test_what_is_left_through_exec_is_found_once(fd, monkeypatch):
    monkeypatch.delenv(handover.LEFT, raising=False)
    handover.leave({"qdisk-1-51712": fd})
    assert os.get_inheritable(fd)
    assert handover.found() == {"qdisk-1-51712": fd} and not os.get_inheritable(fd)
    assert handover.found() == {}


def test_systemd_is_given_a_descriptor_by_its_name_in_the_place_of_an_older_one(systemd, fd):
    handover.keep("qdisk-1-51712", fd)
    assert received(systemd) == (["FDSTOREREMOVE=1", "FDNAME=qdisk-1-51712"], [])
    assert received(systemd) == (["FDSTORE=1", "FDNAME=qdisk-1-51712", "FDPOLL=0"], [os.fstat(fd).st_ino])


def test_without_systemd_nothing_is_kept(fd, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    handover.keep("qdisk-1-51712", fd)


def test_what_systemd_kept_is_found_by_its_names(fd, monkeypatch):
    monkeypatch.setattr(handover, "FIRST", fd)
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "qdisk-1-51712")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert handover.found() == {"qdisk-1-51712": fd}
    assert "LISTEN_FDS" not in os.environ


def test_what_systemd_gave_another_process_is_not_ours(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "stored")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert handover.found() == {}


def test_of_two_ways_to_one_claim_the_one_through_exec_is_kept(fd, monkeypatch, tmp_path):
    stored = os.dup(fd)
    monkeypatch.setattr(handover, "FIRST", stored)
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "a")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv(handover.LEFT, json.dumps({"a": fd}))
    assert handover.found() == {"a": fd}
    with pytest.raises(OSError):
        os.fstat(stored)


def test_of_two_descriptors_of_one_name_none_is_left_open(fd, monkeypatch):
    first = os.dup(fd)
    second = os.dup(fd)
    monkeypatch.setattr(handover, "FIRST", first)
    for name, value in ("LISTEN_FDS", str(second - first + 1)), ("LISTEN_FDNAMES", "a:a"):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert second == first + 1 and handover.found() == {"a": first}
    with pytest.raises(OSError):
        os.fstat(second)
    os.close(first)


def test_systemd_keeps_an_image_of_two_vbds_by_the_name_of_the_one_that_stays(systemd, tmp_path):
    """It takes one description once only, whatever names it is given."""
    (tmp_path / "a.img").write_bytes(bytes(512))
    images, first, second = Images(), Tenant("qdisk-1-51712", 1, group=1), Tenant("qdisk-9-51712", 9, group=1)
    for tenant in first, second:
        images.claim(tenant, str(tmp_path / "a.img"))
        received(systemd), received(systemd)
    images.release(first)
    assert received(systemd)[0] == ["FDSTOREREMOVE=1", "FDNAME=qdisk-1-51712"]
    assert received(systemd)[0] == ["FDSTOREREMOVE=1", "FDNAME=qdisk-9-51712"]
    assert received(systemd)[0] == ["FDSTORE=1", "FDNAME=qdisk-9-51712", "FDPOLL=0"]
    images.close()
