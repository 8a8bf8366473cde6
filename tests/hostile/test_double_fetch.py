"""XSA-155: every shared byte is loaded once a request.  A trace of all accesses, for every operation and ABI."""
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.guest import ERROR, OKAY, WRITE

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


# The same of the data plane: its I/O thread alone uses this mapping of the ring, the guest has another.  Prints, for
# each request, [where its slot is, [(offset, write), ...] until it was answered].
PLANE = """
import ctypes, json, sys
from tests.support.guest import *
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.disk.memory import MemoryDisk
from xenvbd.hv import sim
library, abi, directory = ctypes.CDLL(sys.argv[1]), sys.argv[2], sys.argv[3]
machine = sim.Machine.create(directory)
machine.add_domain(1)
guest = Guest(machine, 1, abi=abi, persistent=True)

def maps():
    lines = [line.split() for line in open("/proc/self/maps")]
    return {int(line[0].split("-")[0], 16) for line in lines if directory in line[-1]}

before = maps()
plane = DataPlane(machine.join(0), MemoryDisk("mem:4M", 4 << 20), settings=Settings(barrier=True))
plane.start(guest.agreement)
[ring] = [address for address in maps() - before if ctypes.string_at(address, 64) == bytes(guest.ring_pages)[:64]]
offsets = (ctypes.c_uint32 * 65536).in_dll(library, "trace_offset")
writes = (ctypes.c_uint8 * 65536).in_dll(library, "trace_write")
count = ctypes.c_int.in_dll(library, "trace_count")
library.trace_watch(ctypes.c_void_p(ring), ctypes.c_size_t(1))
library.trace_begin()
segments, found, size, ring_size = guest.pages(11).segments(), [], 108 if abi == "x86_32-abi" else 112, 32
made = [lambda op=op: guest.request(op, 8, segments[:n]) for n in (1, 11) for op in (READ, WRITE, BARRIER, FLUSH)]
made += [lambda sub=sub, n=n: guest.indirect(sub, 8, (segments * 24)[:n]) for sub in (READ, WRITE)
         for n in (1, 12, 256)]
made += [lambda: guest.request(FLUSH), lambda: guest.request(DISCARD, 8, nr_sectors=8)]
made += [lambda: guest.request(DISCARD, 8, sub=1, nr_sectors=8), lambda: guest.indirect(DISCARD, 8, segments)]
made += [lambda op=op: guest.request(op) for op in (READ, RESERVED, 7, 255)]
for number, make in enumerate(made * 3):
    first = count.value
    guest.do(make())
    seen = [(offsets[i], writes[i]) for i in range(first, count.value)]
    found.append([64 + size * (number % ring_size), seen])
print(json.dumps(found))
library.trace_end()
plane.destroy()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", path, HERE / "trace.c"], check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def traces(library):
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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the trace steps by x86's trap flag")
@pytest.mark.parametrize("abi", ABIS)
def test_no_shared_byte_of_a_request_is_loaded_twice_by_the_data_plane(library, abi: str) -> None:
    """Each operation with few and many segments, direct and indirect, good and bad, also on pages that are kept."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        command = [sys.executable, "-c", PLANE, str(library), abi, f"{directory}/machine"]
        preload = ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))      # a sanitizer's goes first
        done = subprocess.run(command, cwd=PACKAGE.parent, env=os.environ | {"LD_PRELOAD": preload},
                              capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    words = 4 if abi == "x86_32-abi" else 16, 108 if abi == "x86_32-abi" else 112
    assert len(found) == 66
    for at, accesses in found:
        inside = [(offset - at, write) for offset, write in accesses if at <= offset < at + words[1]]
        loads = [offset for offset, write in inside if not write]
        assert loads == list(range(0, words[1], words[0])), "all of it once, word by word, and never again"
        stores = [offset for offset, write in inside if write]
        assert stores == list(range(0, 12, 4 if words[0] == 4 else 8)), "the response"
        assert inside[:len(loads)] == [(offset, 0) for offset in loads], "before that"
        others = {offset for offset, _ in accesses if offset >= 64 and not at <= offset < at + words[1]}
        assert not others, "no other request's slot is looked at"


def test_the_pages_of_an_indirect_request_are_copied_once(machine, serve) -> None:
    """One copy of its segments and one for each of them: there is a fifth, which is made to fail, and no sixth."""
    guest = serve().guest
    segments = guest.pages(4).segments()
    for after, status in (4, ERROR), (5, OKAY):
        machine.inject("copy", after, -1, domid=0)
        assert guest.do(guest.indirect(WRITE, 0, segments)) == [status]
        machine.clear_faults()


def test_one_module_alone_looks_into_a_ring() -> None:
    """Who names the layout of the shared ring, or dereferences it."""
    pattern = re.compile(r"blkif_sring|<\s*(?:const\s+)?\w+\s*\*\s*>\s*\(?&?\s*\w*\.?sring\b|entry\(.*sring")
    touching = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.p[yx][xd]*")
                if pattern.search(path.read_text())}
    assert touching == {"ring.pxd", "ring.pyx"}
