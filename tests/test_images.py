"""Which vbds may have one image, and how it is found again."""
import dataclasses
import errno
import os

import pytest

from xenvbd.disk.claim import Claim, Terms
from xenvbd.errors import ClaimError, TargetError
from xenvbd.images import Images, Taken, Tenant


@pytest.fixture
def images():
    made = Images()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def guest(domid, **fields):
    return Tenant(f"qdisk-{domid}-51712", domid, **({"group": domid, "vm": f"/vm/{domid}"} | fields))


def refused(images, tenant, path):
    with pytest.raises(Taken) as taken:
        images.claim(tenant, path)
    return taken.value


def test_a_second_vbd_is_refused_with_the_key_of_the_first(images, path):
    images.claim(guest(1), path)
    taken = refused(images, guest(2), path)
    assert taken.key == "qdisk-1-51712"
    assert str(taken.named("web1:xvda")) == f"{path}: it is the image of web1:xvda; detach it there first"


def test_an_image_is_the_same_by_any_name(images, path):
    os.link(path, path + ".too")
    images.claim(guest(1), path)
    assert refused(images, guest(2), path + ".too").key == "qdisk-1-51712"


def test_another_image_that_has_its_name_now_is_another_image(images, path, tmp_path):
    first = images.claim(guest(1), path)
    (tmp_path / "b.img").write_bytes(bytes(512))
    os.replace(tmp_path / "b.img", path)
    assert images.claim(guest(2), path).identity.difference(first.identity)


def test_one_guest_cannot_have_an_image_twice(images, path):
    images.claim(guest(1), path)
    refused(images, dataclasses.replace(guest(1), key="qdisk-1-51728"), path)


def test_readers_may_have_it_together_and_a_writer_may_not(images, path):
    images.claim(guest(1, read_only=True), path)
    images.claim(guest(2, read_only=True), path)
    refused(images, guest(3), path)


def test_those_that_share_may_have_it_together(images, path):
    images.claim(guest(1, share=True), path)
    images.claim(guest(2, share=True), path)
    images.claim(guest(3, read_only=True), path)
    refused(images, guest(4), path)


def test_a_writer_that_shares_can_write_beside_one_that_reads(images, path):
    images.claim(guest(1, read_only=True), path)
    claim = images.claim(guest(2, share=True), path)
    assert not claim.terms.read_only


@pytest.mark.parametrize("other", [guest(9, group=1), guest(1, group=1)], ids=["stubdomain first", "guest first"])
def test_a_guest_and_its_stubdomain_have_one_image(images, path, other):
    first, second = (other, guest(1)) if other.domid == 9 else (guest(1), guest(9, group=1))
    assert images.claim(first, path) is images.claim(second, path)


def test_two_stubdomains_of_one_guest_have_one_image(images, path):
    assert images.claim(guest(8, group=1), path) is images.claim(guest(9, group=1), path)


def test_where_it_cannot_be_read_whose_stubdomain_a_domain_is_it_is_refused_and_that_is_said(images, path):
    images.claim(guest(1, group=None), path)
    assert "stubdomain cannot be read" in refused(images, guest(9, group=None), path).message


def test_another_domain_of_the_same_vm_has_its_turn_when_the_first_has_gone(images, path):
    first, second = guest(1, vm="/vm/5"), guest(2, vm="/vm/5")
    images.claim(first, path)
    images.claim(second, path)
    images.turn(first)
    with pytest.raises(Taken) as taken:
        images.turn(second)
    assert taken.value.errno == errno.EINPROGRESS and taken.value.key == first.key
    assert images.release(first) is None
    images.turn(second)


def test_who_is_at_work_has_its_turn_whoever_a_new_manager_has_heard_of_first(images, path):
    first, second = guest(1, vm="/vm/5"), guest(2, vm="/vm/5")
    images.claim(second, path)
    images.claim(first, path)
    images.works(first)
    with pytest.raises(Taken):
        images.turn(second)
    images.release(first)
    images.turn(second)


def test_the_first_goes_on_if_the_second_goes_away(images, path):
    first, second = guest(1, vm="/vm/5"), guest(2, vm="/vm/5")
    claim = images.claim(first, path)
    images.claim(second, path)
    assert images.release(second) is None
    images.turn(first)
    assert images.claim(first, path) is claim


def test_domains_without_a_vm_are_not_the_same(images, path):
    images.claim(guest(1, vm=""), path)
    refused(images, guest(2, vm=""), path)


def test_the_last_to_leave_gives_the_claim_back(images, path):
    tenant = guest(1)
    images.claim(tenant, path)
    images.release(tenant).close()
    other = Images()
    other.claim(guest(2), path)
    other.close()


def test_who_has_left_gets_nothing_that_comes_too_late(images, path):
    """Its file system had hung, and answers when the disk was detached long ago."""
    tenant = guest(1)
    images.release(tenant)
    with pytest.raises(ClaimError, match="detached meanwhile"):
        images.claim(tenant, path)
    images.claim(guest(2), path)


def test_nothing_is_claimed_after_the_end(path):
    images = Images()
    images.close()
    with pytest.raises(ClaimError):
        images.claim(guest(1), path)


def test_only_one_who_is_alone_may_take_what_is_at_work_for_dead(images, path):
    first, second = guest(1), guest(9, group=1)
    images.claim(first, path)
    images.claim(second, path)
    images.works(first)
    assert images.alone(first) and not images.alone(second)
    images.rests(first.key)
    assert images.alone(second)


def test_those_that_share_are_never_alone(images, path):
    sharing = guest(1, share=True)
    images.claim(sharing, path)
    assert not images.alone(sharing)


def test_the_next_manager_has_the_very_claims_of_the_last(path, tmp_path):
    before, tenant = Images(), guest(1)
    claim = before.claim(tenant, path)
    left = {key: os.dup(fd) for key, fd in before.leave().items()}
    before.close()
    os.rename(path, tmp_path / "elsewhere")
    after = Images(left)
    assert after.claim(guest(1), path, Terms(expected=claim.identity)).identity == claim.identity
    after.close()


def test_an_inherited_descriptor_of_another_image_is_not_taken_for_it(path, tmp_path):
    other = tmp_path / "b.img"
    other.write_bytes(bytes(512))
    identity = Images().claim(guest(1), path).identity
    images = Images({"qdisk-1-51712": os.open(other, os.O_RDWR)})
    with pytest.raises(TargetError, match="not the image that was opened"):
        images.claim(guest(1), path, Terms(expected=identity))
    images.close()


# Of one descriptor

def test_vbds_that_have_an_image_together_have_it_in_the_next_manager_too(images, path):
    """They were left one descriptor, which is not closed under the other when the second has found it."""
    before, first, second = Images(), guest(1), guest(9, group=1)
    claim = before.claim(first, path)
    before.claim(second, path)
    after = Images(before.leave())
    for tenant in first, second:
        found = after.claim(tenant, path, Terms(expected=claim.identity))
    assert os.path.samestat(os.fstat(found.fd), os.stat(path))
    assert after.release(first) is None and after.of(second.key) is found
    refused_elsewhere(path)
    after.close()


def test_what_one_of_them_does_not_want_any_more_stays_locked_for_the_other(images, path):
    before, first, second = Images(), guest(1), guest(9, group=1)
    claim = before.claim(first, path)
    before.claim(second, path)
    after = Images(before.leave())
    after.claim(first, path, Terms(expected=claim.identity))
    for close in after.disinherit({first.key}):
        close()
    refused_elsewhere(path)
    after.close()


def refused_elsewhere(path):
    other = Images()
    with pytest.raises(ClaimError, match="locked by"):
        other.claim(guest(3), path)
    other.close()


# At the same time

@pytest.fixture
def meanwhile(monkeypatch):
    """meanwhile(action): done once, while the next claim is being taken."""
    take, actions = Claim.take, []

    def slow(*args):
        if actions:
            actions.pop()()
        return take(*args)

    monkeypatch.setattr(Claim, "take", slow)
    return actions.append


def test_two_that_come_at_once_do_not_both_have_an_image_without_locks(images, path, meanwhile):
    unlocked = Terms(lock=False)
    meanwhile(lambda: images.claim(guest(1), path, unlocked))
    with pytest.raises(Taken) as taken:
        images.claim(guest(2), path, unlocked)
    assert taken.value.key == guest(1).key and images.of(guest(2).key) is None


def test_a_writer_is_no_sharer_because_a_reader_came_meanwhile(images, path, monkeypatch):
    knows = Images._knows

    def late(self, number):
        monkeypatch.setattr(Images, "_knows", knows)
        self.claim(guest(1, read_only=True), path)
        return knows(self, number)

    monkeypatch.setattr(Images, "_knows", late)
    with pytest.raises(Taken):
        images.claim(guest(2), path)


def test_who_claims_twice_at_once_has_one_claim_and_leaves_none(images, path, meanwhile):
    """When a manager takes over: to recover the image, and for the worker that follows a dead one."""
    reader = guest(1, read_only=True)
    meanwhile(lambda: images.claim(reader, path))
    claim = images.claim(reader, path)
    assert images.of(reader.key) is claim and images.release(reader) is claim
    claim.close()
    images.claim(guest(2), path)
