"""XSA-155: every shared byte is loaded once a request.  A trace of all accesses, for every operation and ABI."""
import itertools
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "xenvbd"
ABIS = ["native", "x86_32-abi", "x86_64-abi"]

# In a process of its own, for it takes over SIGSEGV.  Prints [[offset of a load, ...] of each take()].
PROGRAM = """
import ctypes, json, struct, sys
from xenvbd.ring import BackRing
library, abi = ctypes.CDLL(sys.argv[1]), sys.argv[2]
library.trace_pages.restype = ctypes.c_void_p
address = library.trace_pages(1)
page = (ctypes.c_uint8 * 4096).from_address(address)
offsets = (ctypes.c_uint32 * 65536).in_dll(library, "trace_offset")
writes = (ctypes.c_uint8 * 65536).in_dll(library, "trace_write")
count = ctypes.c_int.in_dll(library, "trace_count")
ring, found = BackRing(page, abi), {}
size = 108 if abi == "x86_32-abi" else 112

def traced(what, call):
    library.trace_begin()
    call()
    library.trace_end()
    found.setdefault(what, []).append([(offsets[i], writes[i]) for i in range(count.value)])

done = 0
for operation in range(256):
    for second in (0, 1, 11, 12, 255):
        at = 64 + size * (done % 32)
        for i in range(size):
            page[at + i] = 7
        page[at], page[at + 1] = operation, second
        done += 1
        struct.pack_into("=I", page, 0, done)
        traced("pending", ring.pending)
        traced("take", ring.take)
        traced("respond", lambda: ring.respond(1, operation, 0))
        traced("push", ring.push)
traced("twice", lambda: (ring.pending(), ring.pending()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    library = tmp_path_factory.mktemp("trace") / "trace.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "trace.c"], check=True, timeout=120)

    def run(abi: str) -> dict[str, list]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(library), abi], capture_output=True, text=True,
                              timeout=120, check=True)
        return json.loads(done.stdout)

    return run


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the trace steps by x86's trap flag")
@pytest.mark.parametrize("abi", ABIS)
def test_no_shared_byte_is_loaded_twice(traces, abi: str) -> None:
    found = traces(abi)
    assert len(found["take"]) == 256 * 5
    for accesses in found["take"]:
        assert not any(write for _, write in accesses), "a request is only read"
        loads = sorted(offset for offset, _ in accesses)
        # Each load is of a word of 4 bytes at least, and aligned: those that are nearer would share bytes.
        assert len(loads) >= 3 and all(b - a >= 4 for a, b in itertools.pairwise(loads)), loads
        assert all(offset % 4 == 0 for offset in loads)
    assert all(accesses == [[0, 0]] for accesses in found["pending"]), "req_prod, once"
    for accesses in found["respond"]:
        assert accesses and all(write for _, write in accesses), "a response's slot is only written"
    assert found["twice"] == [[[0, 0], [0, 0]]], "a byte that is loaded twice shows"
    assert all(accesses == [[8, 1], [12, 0]] for accesses in found["push"]), "rsp_prod is stored, rsp_event read"


def test_one_module_alone_looks_into_a_ring() -> None:
    """Who names the layout of the shared ring, or dereferences it."""
    pattern = re.compile(r"blkif_sring|<\s*(?:const\s+)?\w+\s*\*\s*>\s*\(?&?\s*\w*\.?sring\b|entry\(.*sring")
    touching = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.p[yx][xd]*")
                if pattern.search(path.read_text())}
    assert touching == {"ring.pxd", "ring.pyx"}
