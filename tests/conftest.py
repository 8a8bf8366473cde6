"""For all tests: what Hypothesis may take, and a temporary directory on a disk."""
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from xenvbd.disk import kernel

# Property tests are bounded by their number of examples, not by the load of the machine.
settings.register_profile("xenvbd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xenvbd")


def pytest_configure() -> None:
    """Where /tmp is in memory, images that are to be on a disk go below the checkout."""
    with tempfile.TemporaryFile() as file:
        in_memory = kernel.file_system(file.fileno()) in (kernel.TMPFS_MAGIC, kernel.RAMFS_MAGIC)
    if in_memory and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        place = Path(__file__).parent.parent / "build" / "tmp"
        place.mkdir(parents=True, exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(place)
