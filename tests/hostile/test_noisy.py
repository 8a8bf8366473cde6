"""The bounds of what a noisy neighbour costs that do not depend on how fast the machine is; scripts/noisy-neighbour
shows the others."""
import pytest

from tests.hostile.noisy import ATTACKS, Noisy

MEMORY = 64             # MiB of its own that a worker of one disk has at most
LINES = 14              # about it in the log in a minute: 10, how many more there would have been, and its worker's own
WRITES = 40             # to its area of xenstore a second: eight looks, and what each may write


@pytest.fixture(scope="module")
def noisy():
    made = Noisy()
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [[each] for each in ATTACKS] + [list(ATTACKS)], ids="-".join)
def test_a_noisy_neighbour_costs_no_more_than_it_may(noisy, kinds: list[str]) -> None:
    cost = noisy.measure("-".join(kinds), kinds, 1)
    assert cost.errors == 0 and cost.iops > 0
    assert cost.worker < MEMORY and cost.manager < MEMORY
    assert cost.lines <= LINES + 10 * (cost.seconds // 60)
    assert cost.writes <= WRITES
