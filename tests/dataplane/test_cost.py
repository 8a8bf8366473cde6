"""What a request may cost: figures that do not depend on the machine's mood, from scripts/dataplane-cost."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COST = Path(__file__).parent.parent.parent / "scripts" / "dataplane-cost"


def cost(*options: str) -> dict:
    return json.loads(subprocess.run([sys.executable, COST, *options], check=True, capture_output=True).stdout)


@pytest.mark.parametrize("rw", ["randread", "randwrite"])
def test_at_depth_32_system_calls_and_notifications_are_a_batchs(rw: str) -> None:
    found = cost("--rw", rw, "--count", "50000")
    assert found["submits"] <= 0.13
    assert found["events_out"] <= 0.08
    assert found["events_in"] <= 0.08
    assert found["grant_copies"] <= 0.08
    assert found["grant_segments"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_a_request_takes_few_instructions_no_allocation_and_no_gil() -> None:
    found = cost("--instructions", "--count", "4000")
    assert found["own"] <= 500
    assert not [name for name in found["called"] if "alloc" in name or "PyGILState" in name or "PyEval" in name]
