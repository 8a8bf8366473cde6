"""The sandbox from inside: a process locks itself down as a worker does, and then tries what it must not do."""
import json
import os
import pwd
import subprocess
import sys
import textwrap

import pytest

from xenvbd import sandbox
from xenvbd.sandbox import calls, confine, seccomp

PROLOGUE = """
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, subprocess, sys, threading, time
from xenvbd import sandbox
place, other, victim = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")

held = os.open(place + "/held", os.O_RDWR | os.O_CREAT)
opened = os.open(other, os.O_PATH)
listener, peer = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
listener.bind(place + "/socket")
listener.listen()
peer.connect(place + "/socket")
confinement = sandbox.lock_down([(place, "rwm")])

def attempt():
{body}

try:
    result = attempt()
    print(json.dumps(["done", str(result)]))
except OSError as exc:
    print(json.dumps(["refused", exc.errno]))
except ValueError as exc:                       # resource's way to say EPERM
    print(json.dumps(["refused", errno.EPERM]))
"""


@pytest.fixture
def inside(tmp_path):
    """inside(BODY): what attempt() with this body came to in a process that is locked down."""
    place, other = tmp_path / "place", tmp_path / "other"
    for directory in place, other:
        directory.mkdir()
    (other / "secret").write_text("secret")
    bystander = subprocess.Popen(["sleep", "60"])

    def run(body: str) -> list:
        program = PROLOGUE.replace("{body}", textwrap.indent(textwrap.dedent(body), "    "))
        command = [sys.executable, "-c", program, str(place), str(other), str(bystander.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield run
    bystander.kill()
    bystander.wait()


pytestmark = pytest.mark.skipif(confine.landlock_abi() == 0, reason="this kernel has no Landlock")

FORBIDDEN = {
    "open a file": "return os.open(other + '/secret', os.O_RDONLY)",
    "open a file beside a descriptor": "return os.open('secret', os.O_RDONLY, dir_fd=opened)",
    "open its own descriptor again": "return os.open(f'/proc/self/fd/{opened}', os.O_RDONLY)",
    "make a file": "return os.open(other + '/new', os.O_RDWR | os.O_CREAT)",
    "make a file in its place": "return os.open(place + '/new', os.O_RDWR | os.O_CREAT)",
    "remove a file": "os.remove(other + '/secret')",
    "rename a file": "os.rename(other + '/secret', other + '/public')",
    "link a file": "os.link(other + '/secret', place + '/secret')",
    "make a directory": "os.mkdir(other + '/d')",
    "change a mode": "os.chmod(other + '/secret', 0o777)",
    "change a mode through a descriptor": "os.fchmod(held, 0o777)",
    "change an owner": "os.chown(other + '/secret', 1, 1)",
    "list a directory": "return os.listdir(other)",
    "truncate by name": "os.truncate(other + '/secret', 0)",
    "read the memory of a process": "return os.open(f'/proc/{victim}/mem', os.O_RDONLY)",
    "read the host's kernel log": "return os.open('/dev/kmsg', os.O_RDONLY)",
    "execute a program": "os.execv('/bin/true', ['true'])",
    "fork": "return os.fork()",
    "start a program": "return subprocess.Popen(['/bin/true'])",
    "make a namespace": "call(272, 0x10000000)",
    "signal another process": "os.kill(victim, signal.SIGKILL)",
    "signal through a pidfd": "return os.pidfd_open(victim)",
    "have the kernel signal another process": "fcntl.fcntl(held, fcntl.F_SETOWN, victim)",
    "choose the signal": "fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGKILL)",
    "ask for that signal": "fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)",
    "be told of what others do in a directory": "fcntl.fcntl(opened, fcntl.F_NOTIFY, fcntl.DN_CREATE)",
    "take a lease": "fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)",
    "trace another process": "call(101, 16, victim, 0, 0)",
    "read another's memory": "call(310, victim, 0, 0, 0, 0, 0)",
    "a TCP socket": "return socket.socket()",
    "a UNIX socket": "return socket.socket(socket.AF_UNIX)",
    "a netlink socket": "return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a socket pair": "return socket.socketpair()",
    "become another user": "os.setuid(1)",
    "mount": "call(165, 0, 0, 0, 0, 0)",
    "change root": "os.chroot('/')",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "the host's name": "socket.sethostname('x')",
    "a key": "call(250, 0, 0, 0, 0, 0)",
    "bpf": "call(321, 0, 0, 0)",
    "perf": "call(298, 0, 0, -1, -1, 0)",
    "userfaultfd": "call(323, 0)",
    "memfd": "return os.memfd_create('x')",
    "executable memory": "return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "memory that no limit counts": "return mmap.mmap(-1, 4096)",
    "memory that grows downwards": "return mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100)",
    "memory that is merged with others' that is the same": "call(28, 0, 4096, 12)",
    "more memory": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
    "an io_uring, which nobody has restricted": "call(425, 8, ctypes.addressof(ctypes.create_string_buffer(120)))",
    "type into a terminal": "fcntl.ioctl(held, 0x5412, b'x')",
    "a virtual interrupt of the hypervisor": "fcntl.ioctl(held, 0x4 << 16 | ord('E') << 8 | 0, bytes(4))",
    "an event channel for anybody": "fcntl.ioctl(held, 0x4 << 16 | ord('E') << 8 | 2, bytes(4))",
    "reset event channels": "fcntl.ioctl(held, ord('E') << 8 | 5, 0)",
    "give a descriptor away": "call(46, peer.fileno(), 0, 0)",
    "a dma-buf of grants": "fcntl.ioctl(held, 0x10 << 16 | ord('G') << 8 | 9, bytes(16))",
    "a hypercall": "fcntl.ioctl(held, 0x30 << 16 | ord('P') << 8 | 0, bytes(48))",
    "any device that is not its own": "return os.open('/dev/full', os.O_RDWR)",
    "its own memory by its file": "return os.open('/proc/self/mem', os.O_RDWR)",
    "another's limits": "call(302, victim, 7, 0, 0)",
    "be scheduled before all others": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "connect to another socket": "call(42, held, 0, 0)",
    "open by handle": "call(304, opened, 0, 0)",
    "take another's descriptor": "call(438, 3, 0, 0)",
    "a kernel module": "call(313, held, 0, 0)",
    "another kernel": "call(246, 0, 0, 0, 0)",
    "have cores again": "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
    "be dumpable again": "call(157, 4, 1, 0, 0, 0)",
}


# Of a process that is being traced, and nothing to others; newer kernels do not show them to seccomp.
UPROBES = {335, 336}


@pytest.mark.parametrize("what", FORBIDDEN)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the system calls are this machine's")
def test_what_a_worker_may_not_do(inside, what: str) -> None:
    if "/dev/kmsg" in FORBIDDEN[what] and not os.path.exists("/dev/kmsg"):
        pytest.skip("no /dev/kmsg here, as in some chroots")
    outcome, number = inside(FORBIDDEN[what])
    assert outcome == "refused" and number in (1, 13), outcome


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the system calls are this machine's")
def test_every_system_call_that_is_not_on_the_list_is_refused(inside) -> None:
    """All there are, not those that somebody thought of.  Those with conditions are above."""
    names = {*calls.PLAIN, *calls.MAKING, *calls.ABSENT, *(name for name, _ in calls.rules(True))}
    others = set(range(470)) - {seccomp.number(name) for name in names} - UPROBES
    outcome, odd = inside(f"""
        assert "seccomp" in confinement.on
        def refused(number):
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
            return result == -1 and ctypes.get_errno() == errno.EPERM
        return [number for number in {others} if not refused(number)]""")
    assert (outcome, odd) == ("done", "[]")


def test_there_are_at_most_forty_on_the_list_of_a_worker_on_xen() -> None:
    assert len({name for name, _ in calls.rules(making=False)}) <= 40


ALLOWED = {
    "open what is in its place": "return os.open(place + '/held', os.O_RDWR)",
    "make an event channel of the simulated machine there": "os.mkfifo(place + '/evtchn')",
    "use what it holds": """
        os.pwritev(held, [b'x'], 0, os.RWF_DSYNC)
        os.fdatasync(held)
        return os.preadv(held, [bytearray(9)], 0)""",
    "start a thread": "t = threading.Thread(target=time.sleep, args=(0,)); t.start(); t.join()",
    "start threads, each of which takes memory of its own": """
        done = []
        threads = [threading.Thread(target=lambda: done.append(bytearray(1 << 20))) for _ in range(40)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(done) == 40""",
    "move memory that grows, without mremap()": """
        data = bytearray(b"x" * (1 << 20))
        for _ in range(20):
            data += bytes(1 << 20)
        assert data[:1 << 20] == b"x" * (1 << 20) and not any(data[1 << 20:])""",
    "take a connection, hear and answer": """
        taken, _ = listener.accept()
        os.write(peer.fileno(), b"ask")
        assert taken.recvmsg(9)[0] == b"ask"
        os.write(taken.fileno(), b"answer")
        assert os.read(peer.fileno(), 9) == b"answer" """,
    "map memory": "return mmap.mmap(-1, 1 << 22, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
    "map a file": "os.ftruncate(held, 4096); return mmap.mmap(held, 4096)",
    "wait": "time.sleep(0.001)",
    "what it asks of Xen's devices, from this file": """
        for kind, number in [("E", n) for n in (1, 3, 4)] + [("G", n) for n in (0, 1, 2, 3, 7, 8)]:
            try:
                fcntl.ioctl(held, 0x8 << 16 | ord(kind) << 8 | number, bytes(8))
            except OSError as exc:
                assert exc.errno == errno.ENOTTY, (kind, number, exc)""",
    "ask the kernel for the time": "return time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)",      # never in the vDSO
}


def test_an_assertion_that_fails_ends_it(inside) -> None:
    """abort() may not send itself its signal; then it takes an instruction that nobody may."""
    with pytest.raises(AssertionError, match=r"-\d+ == 0"):
        inside("libc.abort()")


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_worker_needs(inside, what: str) -> None:
    assert inside(ALLOWED[what])[0] == "done"


def locked_down(place: str, user: str) -> tuple[str, dict[str, str]]:
    """What lock_down() says, and /proc/self/status after it: opened before, for it cannot be opened any more."""
    program = ("import os, sys\nfrom xenvbd import sandbox\nfd = os.open('/proc/self/status', 0)\n"
               "print(sandbox.lock_down([(sys.argv[1], 'rwm')], sys.argv[2]))\nprint(os.pread(fd, 9999, 0).decode())")
    done = subprocess.run([sys.executable, "-c", program, place, user], capture_output=True, text=True, timeout=30,
                          check=True)
    said, _, status = done.stdout.partition("\n")
    return said, dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_it_has_no_capability_and_can_have_none() -> None:
    fields = locked_down("/", "nobody")[1]
    for name in "CapInh", "CapPrm", "CapEff", "CapAmb":
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


@pytest.mark.parametrize("limit", [
    pytest.param("sandbox.PINNED = 4096", id="a limit that can be had"),
    pytest.param("def refuse(what, limits):\n    raise ValueError\nif os.geteuid() == 0:\n"
                 "    sandbox.resource.setrlimit = lambda what, limits: refuse(what, limits) "
                 "if sandbox.PINNED in limits else None",
                 id="one that cannot")])
def test_what_is_made_last_is_made_once_and_as_root_only_where_nothing_would_be_left_to_make(limit: str) -> None:
    program = ("import os\nfrom xenvbd import sandbox\nmade = []\n" + limit + "\n"
               "def last():\n    status = open('/proc/self/status')\n"
               "    made.append([line for line in status if 'CapEff' in line][0].split()[1])\n"
               "print(sandbox.lock_down([], last=last))\nprint(len(made), int(made[0], 16))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    said, _, rest = done.stdout.partition("\n")
    number, capabilities = map(int, rest.split())
    refused = "refuse" in limit and os.geteuid() == 0
    assert (number, capabilities != 0, "a limit of what io_uring pins" in said) == (1, refused, refused)


def test_a_process_with_threads_is_not_locked_down_by_half() -> None:
    program = ("import threading, time\nfrom xenvbd import sandbox\nthreading.Thread(target=time.sleep, args=(5,),"
               " daemon=True).start()\ntry:\n    sandbox.lock_down([])\nexcept OSError as exc:\n    print(exc)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "one thread" in done.stdout


def test_what_is_missing_is_told_and_the_rest_holds() -> None:
    program = ("from xenvbd import sandbox\nfrom xenvbd.sandbox import confine\n"
               "def none(places):\n    raise OSError(95, 'this kernel has no Landlock')\n"
               "confine.landlock = none\nprint(sandbox.lock_down([]))\n"
               "try:\n    open('/etc/passwd')\n    import socket\n    socket.socket()\n"
               "except OSError as exc:\n    print(exc.errno)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "this kernel has no Landlock" in done.stdout.partition("missing: ")[2] and done.stdout.endswith("1\n")
    assert "seccomp" in done.stdout.partition("missing")[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_root_becomes_the_user_if_that_may_use_the_places(tmp_path) -> None:
    said, fields = locked_down(str(tmp_path), "nobody")
    assert said.startswith("user 0 (nobody may not use") and fields["Uid"].split() == ["0"] * 4
    os.chown(tmp_path, 65534, 65534)
    said, fields = locked_down(str(tmp_path), "nobody")
    assert said.startswith("user nobody") and fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
    assert fields["Groups"].split() == []
    assert locked_down(str(tmp_path), "no-such-user")[0].startswith("user 0 (there is no no-such-user)")


def test_the_user_s_rights_are_those_of_owner_group_or_others(tmp_path) -> None:
    entry = pwd.struct_passwd(("n", "x", 4711, 4712, "", "/", "/"))
    path = tmp_path / "node"
    path.touch()
    for mode, owner, group, may in ((0o600, 4711, 0, True), (0o060, 4711, 4712, False), (0o660, 0, 4712, True),
                                    (0o600, 0, 4712, False), (0o606, 0, 0, True), (0o604, 0, 0, False)):
        os.chown(path, owner, group)
        path.chmod(mode)
        assert sandbox._may_use(str(path), entry) is may
