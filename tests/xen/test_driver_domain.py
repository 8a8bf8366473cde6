"""xenvbd in a driver domain: a Debian PV guest serves another guest's disk, as xl.cfg says."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

BACKEND = "/local/domain/{driver}/backend/qdisk/{guest}/51712"


def make_storage(new_guest: Callable[..., Guest], xenvbd: Xenvbd, package: Path) -> Guest:
    """The driver domain: its root by the kernel's backend, the package installed, the daemon running."""
    xenvbd.dom0("modprobe xen-blkback; ln /guest/debian.img /srv/storage.img; "
                "mount -o loop /srv/storage.img /mnt; cp /tmp/python3-xenvbd_*.deb /mnt/root/; umount /mnt; "
                "losetup /dev/loop1 /srv/storage.img", 240)
    storage = new_guest("storage", 2, disks=("vdev=xvda,format=raw,backendtype=phy,target=/dev/loop1",), memory=448,
                        extra="driver_domain=1", arguments="testroot=/dev/xvda", timeout=400)
    storage.run(f"dpkg -i /root/{package.name}", 400)
    storage.run("""sed -i 's/^#kinds = .*/kinds = ["qdisk"]/' /etc/xenvbd/xenvbd.toml; """
                "truncate -s 32M /srv/a.img; /etc/init.d/xenvbd start", 240)
    return storage


def test_a_driver_domain_serves_a_disk_of_xls_configuration(new_guest: Callable[..., Guest], xenvbd: Xenvbd,
                                                            package: Path) -> None:
    storage = make_storage(new_guest, xenvbd, package)
    guest = new_guest("web", 1, disks=("vdev=xvda,backendtype=qdisk,backend=storage,format=raw,target=/srv/a.img",))
    domid = guest.domid
    area = BACKEND.format(driver=storage.domid, guest=domid)
    guest.run(workload.file_system("/dev/xvda"), 300)
    assert xenvbd.dom0(f"xenstore-read {area}/state") == "4"
    assert guest.run("sync; sha256sum /dev/xvda").split()[0] == storage.run("sha256sum /srv/a.img").split()[0]
    assert xenvbd.disks() == [] and len(storage.run("xenvbd -q list").splitlines()) == 1

    guest.destroy()
    storage.run("for i in $(seq 60); do [ -z \"$(xenvbd -q list)\" ] && exit; sleep 0.5; done; exit 1", 120)
    assert xenvbd.dom0(f"xenstore-exists {area}; echo $?") == "1"
    assert storage.run(f"ls /run/xenvbd | grep -- '-{domid}[-.]'", check=False) == ""
