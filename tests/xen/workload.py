"""What guests do to a disk, each a shell command that fails if a byte is wrong."""

# Mixed block sizes and depths; every block that was written is read back and compared.
FIO = ("/bin/fio --name=v --filename={device} --rw=randrw --bsrange=512-128k --blockalign=512 --iodepth={depth} "
       "--ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --size={size} --randseed=7 "
       "--output-format=terse | tail -1 | cut -d';' -f5,6,47")


def fio(device: str, size: str = "4M", depth: int = 16) -> str:
    """fio with verification; prints its error count, KiB read and KiB written."""
    return "set -e; " + FIO.format(device=device, size=size, depth=depth)


def written(device: str, mebibytes: int) -> str:
    """That much of nobody knows what, on the medium; prints the checksum of the whole disk."""
    return (f"set -e; dd if=/dev/urandom of={device} bs=64k count={mebibytes * 16} conv=fsync 2>/dev/null; "
            f"sha256sum {device}")


def file_system(device: str) -> str:
    """ext4: made, filled, trimmed, unmounted, checked; files keep their checksums over a remount."""
    return (f"set -e; /bin/mke2fs -q -t ext4 {device}; mount {device} /mnt; "
            "cp /bin/busybox /mnt/a; cp /bin/mke2fs /mnt/b; mkdir /mnt/d; "
            "for i in $(seq 40); do echo $i >/mnt/d/$i; done; sha256sum /mnt/a /mnt/b >/tmp/sums; "
            f"dd if=/dev/zero of=/mnt/big bs=1M count=8 2>/dev/null; rm /mnt/big; fstrim /mnt; umount /mnt; "
            f"mount {device} /mnt; sha256sum -c /tmp/sums; cat /mnt/d/40; umount /mnt; /bin/e2fsck -fn {device}")


def slow_sector(device: str) -> str:
    """A sector is read; prints how long it took, in hundredths of a second by the guest's clock, if a tenth or more."""
    return (f"read a x </proc/uptime; dd if={device} of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; "
            "read b x </proc/uptime; d=$((${b%.*}${b#*.} - ${a%.*}${a#*.})); [ $d -lt 10 ] || echo pause $d")
