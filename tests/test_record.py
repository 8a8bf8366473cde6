"""What a manager must know again of a disk is read as it was written, also by xenvbd 0.1."""
import json
from typing import Any

import pytest

from xenvbd.errors import Error
from xenvbd.record import VERSION, Record

# As 0.1.0 wrote it: min_io and opt_io had no effect, and are properties no more.
OF_0_1: dict[str, Any] = {
    "kind": "qdisk", "domain": "/vm/1", "name": "web1:xvda", "created": True, "engine": "auto",
    "buffer_bytes": 16 << 20, "flush_failed": False, "version": 1, "writer": "0.1.0",
    "properties": {
        "domid": 7, "vdev": 51712, "target": "/srv/a.img", "mode": "w", "share": False, "device_type": "disk",
        "logical_block_size": 512, "physical_block_size": None, "min_io": 0, "opt_io": 0, "discard_enable": True,
        "discard_granularity": None, "max_ring_page_order": 4, "max_queues": 1, "max_indirect": 256, "barrier": False,
        "persistent": True, "poll_us": 0, "rerror": "report", "werror": "enospc", "direct": None,
        "large_sector_units": "spec", "trusted": True},
    "facts": {
        "size": 1 << 30, "read_only": False, "logical_block_size": 512, "physical_block_size": 512, "alignment": 1,
        "can_discard": False, "discard_granularity": 0, "discard_alignment": 0},
    "agreement": {
        "domid": 7, "devid": 51712, "abi": "x86_64-abi", "queues": [{"ring_refs": [8], "event_channel": 3}],
        "persistent": False, "sector_unit": 512}}


def test_a_record_of_0_1_is_read() -> None:
    record = Record.from_json(OF_0_1)
    assert (record.name, str(record.properties.target), record.facts.size) == ("web1:xvda", "/srv/a.img", 1 << 30)
    assert record.properties.persistent and record.facts.content == ""
    assert record.agreement is not None and record.agreement.queues[0].ring_refs == (8,)


def test_what_is_written_is_read_the_same() -> None:
    record = Record.from_json(OF_0_1)
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_record_of_a_later_version_says_what_to_do() -> None:
    with pytest.raises(Error, match=rf"of version {VERSION + 1} \(xenvbd 9\).*go back to xenvbd 9, or detach it there"):
        Record.from_json(OF_0_1 | {"version": VERSION + 1, "writer": "9"})
