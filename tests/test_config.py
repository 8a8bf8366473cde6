"""The configuration is read strictly, says what is wrong in words, and dumps to a file that reads the same."""
import errno
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import config, properties, vdev
from xenvbd.config import Config, DiskOptions, DiskRule
from xenvbd.errors import PropertyError, exit_code
from xenvbd.properties import Properties
from xenvbd.target import Target

EXAMPLE = """
[backend]
hypervisor = "sim:/dev/shm/m"
kinds = ["vbd3", "qdisk"]
runtime-dir = "/run/x"
open-timeout = "5s"
max-ring-page-order = 2
buffer-bytes = "64M"
[targets]
allow = ["/srv/xen", "/dev/vg0"]
[log]
level = "debug"
trace = ["xen_block_*"]
[[disk]]
match = "web*:xvda"
direct-io = false
logical-block-size = 4096
[[disk]]
match = "*"
discard = false
"""


def test_without_a_file_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", str(tmp_path / "none.toml"))
    assert config.load() == config.loads("") == Config()


def test_the_default_file_is_read_if_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "xenvbd.toml"
    file.write_text('[backend]\nkinds = ["qdisk"]\n')
    monkeypatch.setattr(config, "DEFAULT_PATH", str(file))
    assert config.load().kinds == ("qdisk",)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PropertyError, match=r"none.toml: cannot read it: No such file") as caught:
        config.load(str(tmp_path / "none.toml"))
    assert (caught.value.errno, exit_code(caught.value)) == (errno.ENOENT, 2)


def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[log]\nlevel = 3\n")
    with pytest.raises(PropertyError, match=r"x.toml: \[log\] level: found 3, expected"):
        config.load(str(tmp_path / "x.toml"))


def test_every_value_is_where_it_belongs() -> None:
    loaded = config.loads(EXAMPLE)
    assert (loaded.hypervisor, loaded.kinds, loaded.open_timeout) == ("sim:/dev/shm/m", ("vbd3", "qdisk"), 5.0)
    assert (loaded.allow, loaded.log_level, loaded.trace) == (("/srv/xen", "/dev/vg0"), "debug", ("xen_block_*",))
    assert loaded.control == "/run/x/control.sock"
    assert config.loads('[backend]\nsocket = "/s"').control == "/s"


def test_the_first_disk_that_matches_wins_over_the_defaults() -> None:
    loaded = config.loads(EXAMPLE)
    web, other = loaded.options_of("web1:xvda"), loaded.options_of("db:xvda")
    assert (web.direct_io, web.logical_block_size, web.discard, web.max_ring_page_order) == (False, 4096, True, 2)
    assert (other.direct_io, other.discard, other.buffer_bytes) == (None, False, 64 << 20)
    assert loaded.options_of("7:51712", "web1:xvda") == web
    assert config.loads("").options_of("web1:xvda") == DiskOptions()


def test_options_become_properties_but_a_toolstacks_refusal_stands() -> None:
    props = Properties(7, vdev.parse("xvda"), Target("null", size=1 << 30), discard_enable=False)
    options = DiskOptions(direct_io=True, barrier=True, persistent_grants=True, poll_us=50, queues=2,
                          rerror="stop", werror="report", lock=False,
                          max_ring_page_order=1, max_indirect_segments=32, logical_block_size=4096,
                          physical_block_size=8192, large_sector_units="qemu")
    assert options.applied(props) == Properties(
        7, vdev.parse("xvda"), Target("null", size=1 << 30), discard_enable=False, direct=True, barrier=True,
        persistent=True, lock=False, poll_us=50, rerror="stop", werror="report", max_queues=2, max_ring_page_order=1,
        max_indirect=32, logical_block_size=4096,
        physical_block_size=8192, large_sector_units="qemu")


def test_default_options_are_default_properties() -> None:
    props = Properties(7, vdev.parse("xvda"), Target("null", size=1 << 30))
    assert DiskOptions().applied(props) == props


@pytest.mark.parametrize(("text", "words"), [
    ("[backend", "not TOML: "), (b"\xff", "not TOML: "),
    ("x = 1", r"the file has the unknown key 'x': expected one of backend, targets, log, disk"),
    ("[backend]\nkind = 1", r"\[backend\] has the unknown key 'kind': expected one of hypervisor, kinds"),
    ("[log]\nbuffer-bytes = 1", r"\[log\] has the unknown key 'buffer-bytes'"),
    ("backend = 1", r"\[backend\]: found 1, expected a table"),
    ("disk = 1", r"\[\[disk\]\]: found 1, expected tables headed \[\[disk\]\]"),
    ("disk = [1]", r"\[\[disk\]\] number 1: found 1, expected a table"),
    ("[[disk]]\ndiscard = true", r"\[\[disk\]\] number 1 match: found nothing, expected a pattern of names"),
    ('[[disk]]\nmatch = "web1"', r"\[\[disk\]\] number 1 match: found 'web1', expected a pattern of names DOMAIN:VDEV"),
    ('[backend]\nkinds = ["vbd3", "vdb"]', "kinds: found .*, expected a list of kinds, which are qdisk, vbd, vbd3"),
    ('[targets]\nallow = ["/srv", "/srv/../etc"]', 'allow: found .*, expected a list of absolute paths without "..'),
    ('[log]\ntrace = ["xen_blok_*"]', "trace: found .*, expected a list of patterns that match events"),
    ("[backend]\nlogical-block-size = 4096\nphysical-block-size = 512",
     r"\[backend\]: found logical-block-size 4096 and physical-block-size 512, expected"),
    ('backend.physical-block-size = 512\n[[disk]]\nmatch = "a:b"\n[[disk]]\nmatch = "a:c"\nlogical-block-size = 4096',
     r"\[\[disk\]\] number 2: found logical-block-size 4096 and physical-block-size 512"),
    (f'[backend]\nsocket = "/{"a" * 107}"', "socket: found .*, expected an absolute path of at most 107 bytes"),
    (f'[backend]\nruntime-dir = "/{"a" * 100}"', "runtime-dir: found .* expected an absolute path of at most 89 bytes"),
    ('[[disk]]\nmatch = "a:b"\nallow = []', r"number 1 has the unknown key 'allow'"),
    ('[backend]\nhypervisor = "kvm"', r"hypervisor: found 'kvm', expected \"xen\", or \"sim:\" and a directory"),
    ('[backend]\nkinds = "vbd3"', r"\[backend\] kinds: found 'vbd3', expected a list of kinds"),
    ("[backend]\nkinds = []", r"kinds: found \[\]"), ("[backend]\nkinds = [1]", r"kinds: found \[1\]"),
    ('[backend]\nkinds = [""]', r"kinds: found \[''\]"),
    ('[backend]\nruntime-dir = "run"', "runtime-dir: found 'run', expected an absolute path"),
    ("[backend]\nsocket = true", 'socket: found True, expected an absolute path .* or "auto"'),
    ("[backend]\nopen-timeout = 8", 'open-timeout: found 8, expected a duration above 0, like "8s"'),
    ('[backend]\nopen-timeout = "0"', "open-timeout: found '0'"),
    ('[backend]\nopen-timeout = "8x"', r"\[backend\] open-timeout: duration '8x': expected a number and"),
    ("[backend]\nqueues = 0", "queues: found 0, expected a number from 1 to 16"),
    ("[backend]\nqueues = true", "queues: found True"), ('[backend]\nqueues = "1"', "queues: found '1'"),
    ("[backend]\ndiscard = 1", "discard: found 1, expected true or false"),
    ("[backend]\ndirect-io = 1", 'direct-io: found 1, expected true or false or "auto"'),
    ('[backend]\nengine = "fast"', 'engine: found \'fast\', expected "auto" or "uring" or "threads"'),
    ('[backend]\nbuffer-bytes = "1M"', 'buffer-bytes: found \'1M\', expected a size from "2M" to "16G"'),
    ('[backend]\nbuffer-bytes = "x"', r"\[backend\] buffer-bytes: size 'x': expected"),
    ("[backend]\nlogical-block-size = 1", "logical-block-size: found 1, expected a power of two from 512"),
    ("[backend]\nlogical-block-size = 1000", "logical-block-size: found 1000, expected a power of two from 512"),
    ('[targets]\nallow = ["srv"]', "expected a list of absolute paths"),
    ('[log]\nlevel = "loud"', "level: found 'loud', expected \"debug\" or"),
    ("[log]\ntrace = 1979-05-27", "trace: found datetime"),
])
def test_what_is_wrong_is_named_with_what_was_found_and_expected(text: str | bytes, words: str) -> None:
    with pytest.raises(PropertyError, match="^x.toml: .*" + words):
        config.loads(text, "x.toml")


@pytest.mark.parametrize("text", ["[[disk]]\nmatch = '*'", "[[disk]]\nmatch = 'web*'", "[targets]\nallow = ['//srv']",
                                  "[backend]\nlogical-block-size = 4096"])
def test_what_can_have_an_effect_is_taken(text: str) -> None:
    config.loads(text)


def test_what_takes_effect_at_a_restart_only_is_told() -> None:
    changed = config.loads("[backend]\nkinds = ['vbd']\nspare-worker = false\n[log]\nlevel = 'debug'")
    assert Config().late(changed) == ["[backend] spare-worker", "[log] level"]
    assert Config().late(Config()) == []


def test_a_size_may_be_a_plain_number() -> None:
    assert config.loads("[backend]\nbuffer-bytes = 4194304").options.buffer_bytes == 4 << 20


WORD = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=8)
PATHS = WORD.map(lambda text: "/" + text)
PLACES = PATHS.filter(lambda path: ".." not in path.split("/") and "\0" not in path)
POWERS = st.integers(12, 21).map(lambda power: 1 << power)
OPTIONS = {
    "engine": st.sampled_from(["auto", "uring", "threads"]), "direct_io": st.none() | st.booleans(),
    "lock": st.booleans(), "discard": st.booleans(), "barrier": st.booleans(), "persistent_grants": st.booleans(),
    "poll_us": st.integers(0, 1000), "rerror": st.sampled_from(["report", "stop"]),
    "werror": st.sampled_from(["enospc", "report", "stop"]),
    "stall_alarm": st.none() | st.integers(1, 10**6).map(float),
    "queues": st.integers(1, 16), "max_ring_page_order": st.integers(0, 4),
    "max_indirect_segments": st.integers(0, 256),
    "buffer_bytes": st.integers(2 << 20, 1 << 34), "logical_block_size": st.sampled_from([512, 1024, 2048, 4096]),
    "physical_block_size": st.none() | POWERS, "large_sector_units": st.sampled_from(["spec", "qemu"])}
RULES = st.builds(DiskRule, WORD.map("a:{}".format), st.fixed_dictionaries({}, optional=OPTIONS).map(
    lambda options: tuple(sorted(options.items()))))
CONFIGS = st.builds(
    Config, hypervisor=st.just("xen") | WORD.map("sim:{}".format),
    kinds=st.lists(st.sampled_from(config.CLAIMABLE), min_size=1, max_size=3).map(tuple), runtime_dir=PATHS,
    socket=st.none() | PATHS, open_timeout=st.integers(1, 10**12).map(lambda n: n / 10**9),
    spare_worker=st.booleans(), allow=st.lists(PLACES, max_size=3).map(tuple),
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
    trace=st.lists(st.sampled_from(["xen_*", "*_read"]), max_size=3).map(tuple),
    options=st.builds(DiskOptions, **OPTIONS), disks=st.lists(RULES, max_size=3).map(tuple))


def test_the_strategies_know_every_key() -> None:
    assert set(OPTIONS) == {item.name for item in fields(DiskOptions)}
    assert sum(map(len, config.SECTIONS.values())) == len(fields(Config)) - 2


@given(CONFIGS)
def test_what_is_dumped_reads_the_same(which: Config) -> None:
    assert config.loads(config.dump(which)) == which


def test_a_dump_has_every_key_of_every_section() -> None:
    text = config.dump(Config())
    for keys in (*config.SECTIONS.values(), config.DISK_KEYS):
        for name in keys:
            assert f"\n{name} = " in text
    assert config.loads(text) == Config()


def test_the_bounds_are_those_of_the_properties() -> None:
    props = Properties(7, vdev.parse("xvda"), Target("null", size=1 << 30))
    largest = config.loads("[backend]\nqueues = 16\nmax-ring-page-order = 4\nmax-indirect-segments = 256").options
    properties.validate(largest.applied(props), properties.DiskFacts(1 << 30))
