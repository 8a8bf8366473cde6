"""Reads and writes through a Frontend, and what it makes of wrong answers."""
import errno
import hashlib
import os

import pytest

from tests.frontend.model import BARRIER, DISCARD, EOPNOTSUPP, ERROR, FLUSH, OKAY, Model
from tests.frontend.scripted import Scripted
from xenvbd.frontend.bus import HandshakeError
from xenvbd.frontend.frontend import Frontend
from xenvbd.frontend.oracle import OracleError, RequestError, Unanswered


@pytest.fixture
def connected(backend: Scripted, frontend_of) -> tuple[Frontend, Model]:
    frontend = frontend_of(indirect=32)
    frontend.connect()
    return frontend, backend.model


def test_a_large_transfer_is_split_into_requests(connected) -> None:
    frontend, model = connected
    data = os.urandom(1024 * 1024)
    frontend.write(0, data)
    assert frontend.read(0, 2048) == data == bytes(model.disk)
    assert max(len(r.segments) for r in model.seen) == 32


def test_every_operation_goes_out_as_blkif_has_it(connected) -> None:
    frontend, model = connected
    frontend.flush()
    frontend.flush_with(1, b"f" * 512)
    frontend.barrier()
    frontend.barrier(2, b"b" * 512)
    frontend.discard(8, 8)
    assert [(r.operation, len(r.segments)) for r in model.seen] == [
        (FLUSH, 0), (FLUSH, 1), (BARRIER, 0), (BARRIER, 1), (DISCARD, 0)]
    assert frontend.read(1, 2) == b"f" * 512 + b"b" * 512


def test_a_wrong_byte_is_an_oracle_error(connected) -> None:
    frontend, model = connected
    frontend.write(4, b"a" * 1024)
    model.disk[5 * 512] ^= 1
    with pytest.raises(OracleError, match="sector 5: expected the bytes written last") as caught:
        frontend.read(0, 16)
    assert caught.value.errno == errno.EILSEQ


def test_patterns_and_bytes_live_side_by_side_in_the_digest(connected) -> None:
    frontend, model = connected
    frontend.write(0, os.urandom(8192))
    frontend.write_pattern(8, 100)
    frontend.write(50, os.urandom(512))
    frontend.write_pattern(50, 1)
    assert frontend.shadow.digest() == hashlib.sha256(model.disk).hexdigest()


@pytest.mark.parametrize(("status", "number"), [(ERROR, errno.EIO), (EOPNOTSUPP, errno.EOPNOTSUPP)])
def test_a_refused_write_is_a_request_error_and_leaves_both_contents_possible(connected, status, number) -> None:
    frontend, model = connected
    frontend.write(0, b"o" * 512)
    model.lie = lambda answers: [(id, operation, status) for id, operation, _ in answers]
    with pytest.raises(RequestError, match=r"WRITE \(1\) of 1 sectors at 0 was answered E") as caught:
        frontend.write(0, b"n" * 512)
    assert (caught.value.errno, caught.value.status) == (number, status)
    model.lie = lambda answers: answers
    assert frontend.read(0, 1) in (b"o" * 512, b"n" * 512)


def test_reading_past_the_end_is_the_backends_to_refuse(connected) -> None:
    frontend, model = connected
    with pytest.raises(RequestError, match=r"READ \(0\) of 2 sectors at 2047"):
        frontend.read(2047, 2)
    model.lie = lambda answers: [(id, operation, OKAY) for id, operation, _ in answers]
    with pytest.raises(OracleError, match=r"the disk ends at (sector )?2048"):
        frontend.write(2047, b"x" * 1024)


def test_closing_waits_for_what_is_in_flight(connected) -> None:
    frontend, model = connected
    model.silent = True
    load = frontend.start(rw="randwrite", iodepth=4)
    load.step(0.01)
    frontend.io_timeout = 0.1
    with pytest.raises(Unanswered, match="no response in time for 4 requests"):
        frontend.close()


def test_a_with_block_closes_politely_and_a_failed_one_vanishes(backend, frontend_of) -> None:
    with frontend_of() as frontend:
        frontend.connect()
    assert backend.saw(5, 6)
    with pytest.raises(ZeroDivisionError), frontend_of() as frontend:
        frontend.connect()
        raise ZeroDivisionError
    assert backend.saw(4)


def test_before_connecting_there_is_neither_ring_nor_disk(store_server, frontend_of) -> None:
    frontend = frontend_of()
    for part in ("facts", "queue", "shadow"):
        with pytest.raises(HandshakeError):
            getattr(frontend, part)


def test_the_shadow_outlives_a_reconnection(backend, frontend_of) -> None:
    frontend = frontend_of()
    frontend.connect()
    frontend.write_pattern(0, 16)
    frontend.connect()      # as after a resume: a new ring
    assert frontend.verify().verified == 2048 * 512


def test_a_vanished_backend_is_seen(connected, backend) -> None:
    frontend, _ = connected
    assert frontend.look() == "connected"
    backend.store.rm(backend.back)
    assert frontend.look() == "gone"


def test_io_goes_on_without_the_store_and_closing_finds_it_again(connected, store_server, backend) -> None:
    frontend, _ = connected
    store_server.drop_connections(5)
    assert frontend.look() == "storeless"
    frontend.write(0, b"s" * 512)
    assert frontend.look() == "connected"
    store_server.drop_connections(5)
    frontend.close()
    assert backend.saw(5, 6)


def test_a_result_counts_what_the_load_did(connected) -> None:
    result = connected[0].load(rw="randrw", count=100, iodepth=8, flush_every=10)
    fields = result.to_json()
    assert (fields["read"]["ops"] + fields["write"]["ops"], fields["errors"], fields["inflight"]) == (100, 0, 0)
    assert sum(fields["latency"]) == result.ops
    assert fields["iops"] == pytest.approx(result.ops / result.seconds, rel=0.01)
    assert fields["verified"] == fields["read"]["bytes"]
