"""Counters by name, and that the names lie where include/xenvbd/stats.h puts them."""
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from xenvbd import stats
from xenvbd.stats import Snapshot

INCLUDE = Path(__file__).parent.parent / "include"

PROGRAM = r"""
#include <stdio.h>
#include <stddef.h>
#include <xenvbd/stats.h>
int main(void)
{
    printf("size %zu\n", sizeof(struct xenvbd_stats));
    printf("magic %llu\n", (unsigned long long)XENVBD_STATS_MAGIC);
#define WORD(field) printf(#field " %zu\n", offsetof(struct xenvbd_stats, field) / 8);
    FIELDS
#define OP_WORD(field) printf("op." #field " %zu\n", offsetof(struct xenvbd_op_stats, field) / 8);
    OP_WORD(ops) OP_WORD(bytes) OP_WORD(errors) OP_WORD(nanoseconds) OP_WORD(histogram)
    printf("op %zu\nstride %zu\n", offsetof(struct xenvbd_stats, op) / 8, sizeof(struct xenvbd_op_stats) / 8);
    printf("codes %d %d %d %d\n", XENVBD_STAT_DISCARD, XENVBD_STAT_OPS, XENVBD_STOP_NOSPC, XENVBD_STOP_IO);
    unsigned long long ns;
    while (scanf("%llu", &ns) == 1)
        printf("bucket %llu %u\n", ns, xenvbd_histogram_bucket(ns));
}
"""


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """What a C compiler makes of the header: lines of words."""
    directory = tmp_path_factory.mktemp("header")
    source = directory / "layout.c"
    source.write_text(PROGRAM.replace("FIELDS", " ".join(f"WORD({name})" for name in stats.COUNTERS)))
    subprocess.run(["cc", "-I", INCLUDE, "-o", directory / "layout", source], check=True)
    generator = random.Random(1)
    samples = [*range(70), 2**64 - 1]
    samples += (generator.randrange(1 << generator.randrange(1, 64)) for _ in range(2000))
    output = subprocess.run([directory / "layout"], input="\n".join(map(str, samples)), text=True,
                            capture_output=True, check=True).stdout
    return [line.split() for line in output.splitlines()]


def test_the_words_lie_where_the_header_puts_them(header):
    layout = {words[0]: list(map(int, words[1:])) for words in header if words[0] != "bucket"}
    assert layout["size"] == [stats.SIZE] and layout["magic"] == [stats.MAGIC]
    assert [layout[name][0] for name in stats.COUNTERS] == list(range(1, 1 + len(stats.COUNTERS)))
    assert [layout[f"op.{name}"][0] for name in (*stats.OP_COUNTERS, "histogram")] == [0, 1, 2, 3, 4]
    assert layout["op"] == [1 + len(stats.COUNTERS)] and layout["stride"] == [4 + stats.BUCKETS]
    assert layout["codes"] == [stats.OPS.index("discard"), len(stats.OPS), stats.STOPS.index("no-space"),
                               stats.STOPS.index("io-error")]


def test_the_buckets_are_the_header_s_and_contain_what_they_count(header):
    for _, ns, bucket in (words for words in header if words[0] == "bucket"):
        assert stats.bucket_of(int(ns)) == int(bucket)
        low, high = stats.bucket_range(int(bucket))
        assert low <= int(ns) and (int(ns) < high or int(bucket) == stats.BUCKETS - 1)


def words(**values: int) -> bytes:
    """A struct xenvbd_stats with some counters set; read_ops and read_us are one bucket of reads."""
    content = [0] * stats.WORDS
    content[0] = stats.MAGIC
    ops, latency = values.pop("read_ops", 0), values.pop("read_us", 1) * 1000
    for name, value in values.items():
        content[1 + stats.COUNTERS.index(name)] = value
    read = 1 + len(stats.COUNTERS)
    content[read:read + 4] = [ops, ops * 4096, 0, ops * latency]
    content[read + 4 + stats.bucket_of(latency)] = ops
    return struct.pack(f"={stats.WORDS}Q", *content)


def test_a_difference_counts_what_happened_between_and_keeps_what_is_now():
    before = Snapshot.from_bytes(words(passes=10, inflight=3, read_ops=5))
    after = Snapshot.from_bytes(words(passes=15, inflight=2, read_ops=9))
    change = after - before
    assert change.counters["passes"] == 5 and change.inflight == 2
    assert change.ops["read"].ops == 4 and sum(change.ops["read"].histogram) == 4


def test_a_new_worker_s_counters_never_give_a_negative_rate():
    change = Snapshot.from_bytes(words(read_ops=1)) - Snapshot.from_bytes(words(read_ops=100))
    assert change.ops["read"].ops == 0


def test_what_is_over_keeps_its_counts_and_loses_its_state():
    settled = Snapshot.from_bytes(words(inflight=3, stopped=1, read_ops=5)).settled()
    assert settled.inflight == 0 and settled.stopped == "none" and settled.ops["read"].ops == 5


def test_queues_add_up():
    first, second = words(inflight=1, read_ops=2), words(inflight=2, stopped=1)
    total = Snapshot.from_bytes(first) + Snapshot.from_bytes(second)
    assert total.inflight == 3 and total.ops["read"].ops == 2 and total.stopped == "no-space"


@pytest.mark.parametrize("us", [1, 37, 500, 12_000, 3_000_000])
def test_a_percentile_is_right_within_the_width_of_its_bucket(us):
    read = Snapshot.from_bytes(words(read_ops=1000, read_us=us)).ops["read"]
    for percent in (1, 50, 99.9, 100):
        assert read.percentile(percent) == pytest.approx(us / 1e6, rel=0.20)


def test_no_operation_has_no_latency():
    assert Snapshot.zero().ops["read"].percentile(99) == 0.0


@pytest.mark.parametrize("data", [b"", b"x" * 100, bytes(stats.SIZE)], ids=["empty", "short", "not-started"])
def test_what_is_no_counter_file_counts_as_zero(data):
    assert Snapshot.from_bytes(data) == Snapshot.zero()


def test_files_are_read_and_missing_ones_count_as_zero(tmp_path):
    (tmp_path / "q0").write_bytes(words(read_ops=7))
    assert Snapshot.of_files([str(tmp_path / "q0"), str(tmp_path / "q1")]).ops["read"].ops == 7


def test_json_spells_words_with_hyphens_and_gives_percentiles():
    fields = Snapshot.from_bytes(words(grant_copies=4, read_ops=10, read_us=100)).to_json()
    assert fields["grant-copies"] == 4 and fields["stopped"] == "none"
    assert fields["read"]["bytes"] == 40960 and fields["read"]["p50-us"] == pytest.approx(100, rel=0.2)
    assert fields["write"] == dict.fromkeys(fields["read"]) | {"ops": 0, "bytes": 0, "errors": 0}


def test_the_size_of_the_file_is_the_struct_s():
    assert len(words()) == stats.SIZE and os.sysconf("SC_PAGE_SIZE") * 2 >= stats.SIZE
