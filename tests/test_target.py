"""Targets and DISKSPECs mean what xl-disk-configuration(5) says; only raw is served, nothing is probed."""
import errno
import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import target, vdev
from xenvbd.errors import PropertyError
from xenvbd.target import DiskSpec, Target

GUEST = DiskSpec(Target("file", "/dev/vg/guest-volume"), vdev.parse("hda"))
IMAGE = DiskSpec(Target("file", "/root/image.iso"), vdev.parse("hdc"), mode="r", device_type="cdrom")
EMPTY = DiskSpec(None, vdev.parse("hdc"), mode="r", device_type="cdrom")


@pytest.mark.parametrize(("text", "expected"), [
    ("/srv/d.img", Target("file", "/srv/d.img")), ("file:/srv/d.img", Target("file", "/srv/d.img")),
    ("raw:/srv/d.img", Target("file", "/srv/d.img")), ("aio:/dev/sdb", Target("file", "/dev/sdb")),
    ("/srv/a:b,c=d", Target("file", "/srv/a:b,c=d")),
    ("null:1G", Target("null", size=1 << 30)), ("mem:512", Target("mem", size=512)),
])
def test_a_target_is_a_path_or_a_size(text: str, expected: Target) -> None:
    assert target.parse(text) == expected


@pytest.mark.parametrize(("text", "words"), [
    ("nbd:host", "unknown scheme 'nbd': expected /path, file:, raw:"), ("d.img", "expected an absolute path"),
    ("null:0", "multiple of 512"), ("mem:1000", "multiple of 512"),
    ("null:", "size ''"),
    ("", "names no medium"), ("file:", "names no medium"), ("/a\0b", "without NUL"),
    ("/" + "a" * 4095, "at most 4095"),
    ("/\ud800", "expected a path"),
    ("qcow2:/d", "only raw is: run `qemu-nbd .*--format=qcow2 /d` and attach /dev/nbd0"), ("vmdk:/d", "only raw"),
    ("vhd:/d", "format vhd is not served.*--format=vpc /d`.*qemu-img convert -f vpc -O raw /d /d.raw`"),
])
def test_any_other_target_is_refused_with_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        target.parse(text)


def test_a_relative_path_needs_a_base() -> None:
    assert target.parse("d.img", base="/srv") == Target("file", "/srv/d.img")
    assert target.parse("file:d.img", base="/srv") == Target("file", "/srv/d.img")


@given(st.one_of(st.text(max_size=30).map(lambda s: Target("file", "/" + s.replace("\0", ""))),
                 st.builds(Target, st.sampled_from(["null", "mem"]),
                           size=st.integers(1, 1 << 50).map(lambda n: n * 512))))
def test_a_targets_text_is_the_same_target(which: Target) -> None:
    assert target.parse(str(which)) == which


@pytest.mark.parametrize(("params", "expected"), [
    (b"/srv/d.img", "/srv/d.img"), (b"aio:/srv/d.img", "/srv/d.img"), (b"raw:/srv/d.img", "/srv/d.img"),
    (b"vg/web", "/dev/vg/web"),
    (b"/srv/\xff.img", "/srv/" + os.fsdecode(b"\xff") + ".img"),
])
def test_params_of_a_toolstack_is_a_path_with_or_without_its_driver(params: bytes, expected: str) -> None:
    assert target.parse_params(params) == Target("file", expected)


def test_params_may_name_our_own_targets() -> None:
    assert target.parse_params(b"null:1G") == Target("null", size=1 << 30)
    assert target.parse_params(b"aio:null:1G") == Target("null", size=1 << 30)


@pytest.mark.parametrize("params", [b"", b"aio:"])
def test_params_of_an_empty_drive_has_no_medium(params: bytes) -> None:
    with pytest.raises(PropertyError) as caught:
        target.parse_params(params)
    assert caught.value.errno == errno.ENOMEDIUM


@pytest.mark.parametrize("params", [b"qcow2:/d", b"vhd:/d", b"nbd:unix:/s", b"/a\0b"])
def test_params_of_another_format_is_refused(params: bytes) -> None:
    with pytest.raises(PropertyError):
        target.parse_params(params)


@pytest.mark.parametrize(("text", "expected"), [
    ("/dev/vg/guest-volume,,hda", GUEST),
    ("/dev/vg/guest-volume,raw,hda,rw", GUEST),
    ("format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume", GUEST),
    ("raw:/dev/vg/guest-volume,hda,w", GUEST),
    ("tap:aio:/dev/vg/guest-volume,hda,w", GUEST),
    ("phy:vg/guest-volume,hda,w", GUEST),
    ("vg/guest-volume,,hda", GUEST),
    ("backendtype=, format=,vg/guest-volume,hda,", GUEST),
    ("/root/image.iso,,hdc,cdrom", IMAGE),
    ("/root/image.iso,,hdc,,cdrom", IMAGE),
    ("/root/image.iso,raw,hdc,devtype=cdrom", IMAGE),
    ("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso", IMAGE),
    ("raw:/root/image.iso,hdc:cdrom,ro", IMAGE),
    (",hdc:cdrom,r", EMPTY), (",empty,hdc,cdrom", EMPTY),
    ("vdev=hdc,cdrom", EMPTY), (",,hdc,cdrom,target=", EMPTY),
])
def test_a_diskspec_means_what_the_manual_page_says(text: str, expected: DiskSpec) -> None:
    assert target.parse_diskspec(text) == expected


def test_target_takes_the_rest_of_the_diskspec() -> None:
    spec = target.parse_diskspec(",raw,xvda,target=/srv/a,b=c:d ")
    assert spec.target == Target("file", "/srv/a,b=c:d ")


def test_every_other_parameter_is_kept() -> None:
    spec = target.parse_diskspec("null:1G,,xvda,ro,backend=storage,backendtype=qdisk,script=block-x,"
                                 "direct-io-safe,no-discard,untrusted,no-colo,specification=xen")
    assert spec == DiskSpec(Target("null", size=1 << 30), vdev.parse("xvda"), mode="r", backend="storage",
                            backendtype="qdisk", script="block-x", direct_io_safe=True, discard=False,
                            trusted=False)


def test_a_flag_can_also_say_the_default() -> None:
    spec = target.parse_diskspec("null:1G,discard,trusted,devtype=disk")
    assert (spec.discard, spec.trusted, spec.device_type) == (True, True, "disk")
    assert (spec.vdev, spec.mode) == (None, "w")


@pytest.mark.parametrize(("text", "words"), [
    ("/d,qcow2,xvda", "--format=qcow2 /d`"), ("qcow2:/d,xvda,w", "only raw is"), ("format=vhd,target=/d", "=vpc /d`"),
    ("format=vdi", "--format=vdi FILE`"),
    ("/d,foo,xvda", "format 'foo': expected raw"), ("/d,,xvda,x", "access 'x': expected w, rw, w!, r, ro"),
    ("/d,,xvda,w,more", "too many positional parameters: 'more'"),
    ("/d,devtype=floppy", "expected cdrom, disk"),
    ("/d,backendtype=standalone", "expected phy, qdisk, tap"), ("/d,specification=virtio", "expected xen"),
    ("/d,colo-host=h", "unknown parameter 'colo-host'"),
    ("/d,,xvda,vdev=xvdb", "vdev is given twice: 'xvda' and 'xvdb'"),
    ("/d,target=/e", "target is given twice"), ("/d,discard,no-discard", "discard is given twice"),
    ("/d,,xvda:floppy", "expected cdrom, disk"), ("/d,,nonsense", "is not a virtual device"),
    ("a=b,,xvda", "unknown parameter 'a'"), ("nbd:h,,xvda", "unknown scheme 'nbd'"),
])
def test_a_wrong_diskspec_names_the_parameter(text: str, words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        target.parse_diskspec(text)


@given(st.text(alphabet=st.sampled_from("/abcdehrwxvo:=,. \n\0é-"), max_size=40) | st.text(max_size=20))
def test_no_text_raises_anything_but_a_property_error(text: str) -> None:
    for parse in (target.parse, target.parse_diskspec):
        with suppress(PropertyError):
            parse(text)


@given(st.binary(max_size=30))
def test_no_params_raise_anything_but_a_property_error(params: bytes) -> None:
    with suppress(PropertyError):
        target.parse_params(params)


def test_what_to_do_with_another_format_can_be_printed_and_typed_whatever_bytes_the_path_has() -> None:
    told = target.other_way("vdi", "/srv/a b\udcbc")
    assert told.isprintable() and told.count("$'/srv/a b\\xbc'") == 2
