"""No option goes nowhere: each that can be asked for, by a toolstack, an administrator, a program or the configuration,
changes what is published, ordered, locked or watched; or it is refused."""
import ast
import dataclasses
from pathlib import Path

import pytest

import xenvbd
from tests import test_verbs
from tests.support.manager import BACKEND, FRONTEND
from tests.test_verbs import call
from xenvbd import disk, features, parameters, target
from xenvbd.cli import attach, parser
from xenvbd.config import Config, DiskOptions
from xenvbd.errors import ClaimError, PropertyError
from xenvbd.properties import Properties

b = test_verbs.b            # the fixture
SOURCES = Path(xenvbd.__file__).parent


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def tree(store, path):
    """All nodes below a path."""
    found = {path: store.get(path)} if store.exists(path) else {}
    for name in store.ls(path) if store.exists(path) else ():
        found |= tree(store, f"{path}/{name}")
    return found


def can_be_shared(path):
    try:
        disk.open_image(path, read_only=False, share=True).close()
    except ClaimError:
        return False
    return True


def outcome(b, image, **params):
    """All that an attached disk is, from outside: its nodes, its lock, what its worker is told, what is watched."""
    shown = call(b, "attach", **({"domain": "domain7", "target": image, "vdev": "xvda", "wait": False} | params))
    device = b.backend.find(shown["disk"])
    area, front = device.areas.backend, device.areas.frontend
    nodes = tree(b.toolstack, area) | tree(b.toolstack, front)
    shared = can_be_shared(image)
    for name, value in {"ring-ref": 8, "event-channel": 3, "protocol": "x86_64-abi", "feature-persistent": 1,
                        "feature-large-sector-size": 1, "state": 3}.items():
        b.toolstack.write(f"{front}/{name}", str(value))
    b.until(lambda: device.connected)
    worker = b.backend.workers.get(7)
    told = nodes, shared, worker.params, worker.allowed, device.stalls.alarm
    call(b, "detach", disk=shown["disk"], force=True)
    return told


# Of one disk, by the control socket: what is changed, and beside what it can act.
PARAMS = {
    "mode": ("r", {}), "share": (True, {}), "lock": (False, {}), "device-type": ("cdrom", {}),
    "logical-block-size": (4096, {}),
    "physical-block-size": (8192, {}), "discard-enable": (False, {}), "discard-granularity": (1 << 20, {}),
    "max-ring-page-order": (1, {}), "max-queues": (2, {}), "max-indirect": (0, {}), "barrier": (True, {}),
    "persistent": (True, {"direct": False}), "poll-us": (5, {}), "rerror": ("stop", {}), "werror": ("stop", {}),
    "direct": (False, {}), "large-sector-units": ("qemu", {"logical-block-size": 4096}), "trusted": (False, {}),
    "engine": ("threads", {}), "target": ("mem:1M", {}), "vdev": ("xvdb", {})}
# What decides when the answer comes: tests/test_verbs.py.
WHEN = {"domain", "wait", "timeout"}


def test_every_parameter_of_attach_is_tried_here():
    assert set(PARAMS) | WHEN == set(parameters.PLAIN) | set(parameters.OTHERS)
    assert set(parameters.PLAIN.values()) == {field.name for field in dataclasses.fields(Properties)} - {
        "domid", "vdev", "target"}


@pytest.mark.parametrize("name", PARAMS)
def test_a_parameter_of_attach_changes_what_the_disk_is(b, image, name):
    value, beside = PARAMS[name]
    assert outcome(b, image, **beside) != outcome(b, image, **beside | {name: value})


@pytest.mark.parametrize(("params", "words"), [
    ({"persistent": True, "direct": True}, "persistent grants are not used with direct I/O"),
    ({"target": "null:1M", "direct": True}, "null:1M has no page cache"),
    ({"mode": "r", "werror": "stop"}, "the disk is read-only"),
    ({"mode": "r", "share": True}, "the disk is read-only"), ({"target": "null:1M", "lock": False}, "no image"),
    ({"discard-granularity": 4096, "discard-enable": False}, "no meaning without discard"),
    ({"min-io": 512}, "does not know min-io"), ({"target": "mem:1M", "engine": "uring"}, "does not fit")], ids=str)
def test_a_parameter_that_could_not_act_is_refused(b, image, params, words):
    with pytest.raises(PropertyError, match=words):
        outcome(b, image, **params)


# Of the configuration.
OPTIONS = {
    "engine": ("threads", {}), "lock": (False, {}),
    "direct_io": (False, {}), "discard": (False, {}), "barrier": (True, {}),
    "persistent_grants": (True, {"direct_io": False}), "poll_us": (5, {}), "rerror": ("stop", {}),
    "werror": ("stop", {}), "stall_alarm": (5.0, {}), "queues": (2, {}), "max_ring_page_order": (1, {}),
    "max_indirect_segments": (0, {}), "buffer_bytes": (4 << 20, {}), "logical_block_size": (4096, {}),
    "physical_block_size": (8192, {}), "large_sector_units": ("qemu", {"logical_block_size": 4096})}


def test_every_option_of_a_disk_is_tried_here():
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(DiskOptions)}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_configuration_changes_what_the_disk_is(b, image, name):
    value, beside = OPTIONS[name]
    told = []
    for options in (DiskOptions(**beside), DiskOptions(**beside | {name: value})):
        b.backend.host.options = lambda *names, options=options: options
        told.append(outcome(b, image))
    assert told[0] != told[1]


def attributes(path):
    """The names of attributes that a source file reads."""
    return {node.attr for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("name", sorted({field.name for field in dataclasses.fields(Config)} - {"socket", "disks"}))
def test_a_key_of_the_configuration_is_read_where_it_acts(name):
    assert any(name in attributes(path) for path in SOURCES.rglob("*.py") if path.name != "config.py")


# Of a toolstack: what libxl writes into a backend area, 4.17 to 4.20.
ASKED = {"params": "/srv/b.img", "frontend": "/local/domain/9/device/vbd/51712", "frontend-id": "9", "mode": "r",
         "device-type": "cdrom", "discard-enable": "0"}
# For the guest, its firmware, or libxl's own use; direct-io-safe allows what is done in any case, on copies.
FOR_OTHERS = {"removable", "bootable", "dev", "type", "script", "hotplug-status", "direct-io-safe"}
WATCHED = {"online", "state"}           # tests/test_device.py


@pytest.mark.parametrize("name", ASKED)
def test_a_node_of_a_toolstack_changes_what_is_asked_for_or_is_refused(name):
    def read(**changed):
        nodes = {"params": "/srv/a.img", "frontend": FRONTEND, "frontend-id": "7", "mode": "w"} | changed
        try:
            return features.read_properties(lambda name: nodes[name].encode() if name in nodes else None,
                                            0, "qdisk", 7, 51712)
        except PropertyError as refusal:
            return str(refusal)

    assert read() != read(**{name: ASKED[name]})


def test_what_we_read_of_a_toolstack_s_nodes_is_tried_here():
    seen = set()
    nodes = {"params": "/srv/a.img", "frontend": FRONTEND, "frontend-id": "7", "mode": "w"}

    def get(name):
        seen.add(name)
        return nodes[name].encode() if name in nodes else None

    features.read_properties(get, 0, "qdisk", 7, 51712)
    assert seen == set(ASKED) and not seen & (FOR_OTHERS | WATCHED)
    assert features.backend_path(0, "qdisk", 7, 51712) == BACKEND


# Of xl's DISKSPEC: what is changed, in words; None: what is refused, as it is a toolstack's to do.
WORDS = {
    "target": "target=/srv/b.img", "vdev": "vdev=xvdb", "access": "access=w!", "devtype": "devtype=cdrom",
    "cdrom": "cdrom", "discard": "discard", "no-discard": "no-discard", "trusted": "trusted", "untrusted": "untrusted",
    "direct-io-safe": "direct-io-safe", "format": "format=qcow2", "backend": "backend=storage",
    "backendtype": "backendtype=qdisk", "script": "script=block-x", "specification": "specification=virtio"}
ALWAYS_SO = {"no-colo"}


def asked_by(words):
    """What `xenvbd attach web1 SPEC` asks the daemon for, or how it is refused."""
    spec = words if words.startswith("target=") else ",".join(filter(None, [words, "target=/srv/a.img"]))
    try:
        return attach.disk_params(parser.build().parse_args(["attach", "web1", spec]))
    except PropertyError as refusal:
        return str(refusal)


def test_every_parameter_of_a_diskspec_is_tried_here():
    assert set(WORDS) | ALWAYS_SO == set(target._NAMES) | set(target._FLAGS)


@pytest.mark.parametrize("name", WORDS)
def test_a_parameter_of_a_diskspec_changes_what_is_asked_for_or_is_refused(name):
    assert asked_by("format=raw") != asked_by(WORDS[name])


def test_untrusted_reaches_the_node_that_the_guest_looks_at(b, image):
    params = attach.from_diskspec(f"vdev=xvda,untrusted,target={image}")
    nodes, *_ = outcome(b, image, **params)
    assert nodes[f"{FRONTEND}/trusted"] == b"0"


# Of the command line.
def functions():
    """The attributes of `options` that the command's sources read."""
    return {node.attr for path in (SOURCES / "cli").glob("*.py") for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute)
            and getattr(node.value, "id", getattr(node.value, "attr", "")) == "options"}


@pytest.mark.parametrize("verb", [verb.NAME for verb in parser.VERBS])
def test_every_option_of_a_verb_is_read(verb):
    group = next(action for action in parser.build()._actions if isinstance(action.choices, dict))
    wanted = {action.dest for action in group.choices[verb]._actions} - {"help", "==SUPPRESS=="}
    assert wanted <= functions()


DISK_WORDS = {
    "--sector-size": "4096", "--physical-sector-size": "4096", "--no-discard": "", "--persistent": "", "--poll-us": "5",
    "--rerror": "stop", "--werror": "stop", "--direct": "", "--no-direct": "", "--ring-page-order": "1"}


@pytest.mark.parametrize("name", DISK_WORDS)
def test_an_option_of_a_disk_changes_what_is_asked_for(name):
    words = [name, *filter(None, [DISK_WORDS[name]])]
    plain, given = (parser.build().parse_args(["attach", "web1", "/a", *more]) for more in ((), words))
    assert attach.disk_params(plain) != attach.disk_params(given)


def test_every_option_of_a_disk_on_the_command_line_is_tried_here():
    bare = parser.argparse.ArgumentParser(add_help=False)
    attach.add_disk_options(bare)
    assert {name for action in bare._actions for name in action.option_strings} == set(DISK_WORDS)
