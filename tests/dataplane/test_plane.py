"""The data plane from end to end: what a guest writes is what it reads, whatever the operation, ABI and ring."""
import os

from tests.support.guest import OKAY, PAGE, SECTOR

ABIS = ["native", "x86_32-abi", "x86_64-abi"]


def test_a_guest_reads_what_it_wrote(serve) -> None:
    guest = serve().guest
    data = os.urandom(11 * PAGE)
    assert guest.write(16, data) == OKAY
    assert guest.read(16, len(data) // SECTOR) == data
    assert guest.flush() == OKAY
