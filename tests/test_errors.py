"""Errors say which disk and which path, survive a trip between processes, and decide the exit status."""
import errno
import pickle

import pytest

from xenvbd import errors
from xenvbd.errors import Error, HypervisorError, ProtocolError, StoreError


def test_an_error_says_disk_path_and_message_with_the_parts_that_are_known() -> None:
    assert str(Error(errno.EIO, "no read", disk="web1:xvda", path="/a/b")) == "web1:xvda: /a/b: no read"
    assert str(Error(errno.EIO, "cannot read", path="/a/b")) == "/a/b: cannot read"
    assert str(Error(errno.EIO, "cannot read")) == "cannot read"


def test_an_error_is_an_oserror_with_its_errno() -> None:
    with pytest.raises(OSError) as caught:
        raise ProtocolError(errno.EPROTO, "bad", path="/p", disk="1:xvda")
    assert caught.value.errno == errno.EPROTO
    assert caught.value.strerror == "bad"
    assert type(caught.value) is ProtocolError


def test_an_error_survives_pickle_and_json() -> None:
    error = StoreError(errno.ENOENT, "no node", disk="1:xvda", path="/p")
    for copy in (pickle.loads(pickle.dumps(error)), errors.from_json(errors.to_json(error))):
        assert type(copy) is StoreError
        assert (copy.errno, str(copy)) == (errno.ENOENT, "1:xvda: /p: no node")


def test_a_foreign_oserror_crosses_as_error_with_its_file() -> None:
    fields = errors.to_json(FileNotFoundError(errno.ENOENT, "No such file", "/x"))
    assert str(errors.from_json(fields)) == "/x: No such file"


def test_an_error_class_of_another_version_comes_back_as_error() -> None:
    assert type(errors.from_json({"class": "Later", "errno": 5, "message": "m"})) is Error


def test_the_gate_passes_what_is_not_negative() -> None:
    assert errors.check(0, "xengnttab_open") == 0
    assert errors.check(7, "xenevtchn_bind_interdomain") == 7


def test_the_gate_raises_the_errno_with_what_was_tried() -> None:
    with pytest.raises(HypervisorError, match=r"^1:xvda: /p: map: Cannot allocate memory$") as caught:
        errors.check(-errno.ENOMEM, "map", disk="1:xvda", path="/p")
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize(("exc", "status"), [
    (None, 0),
    (Error(errno.EIO, ""), 1), (ValueError(), 1), (errors.TargetError(errno.EIO, ""), 1),
    (StoreError(errno.EIO, ""), 1), (HypervisorError(errno.EIO, ""), 1), (ProtocolError(errno.EIO, ""), 1),
    (errors.PropertyError(errno.EINVAL, ""), 2),
    (errors.NoSuchDisk(errno.ENOENT, ""), 3),
    (TimeoutError(), 4), (errors.StoreError(errno.ETIMEDOUT, ""), 4),
    (errors.ControlError(errno.ECONNREFUSED, ""), 5),
    (errors.NoHypervisor(errno.ENOENT, ""), 6),
    (errors.PolicyError(errno.EACCES, ""), 7), (errors.ClaimError(errno.EBUSY, ""), 7),
])
def test_every_error_has_one_exit_status(exc: BaseException | None, status: int) -> None:
    assert errors.exit_code(exc) == status


def test_the_table_names_each_exit_status_once() -> None:
    assert sorted(status for status, _, _ in errors.EXIT_CODES) == list(range(8))


def test_every_class_says_what_it_means_in_one_sentence() -> None:
    for cls in errors._CLASSES.values():
        assert cls.__doc__ and cls.__doc__.strip().splitlines()[0].endswith(".")
