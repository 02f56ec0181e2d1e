"""The sandbox as its callers see it: results in order, refusals that say why, nothing left running."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.code_execution.sandbox import Pool, Sandbox, SandboxError
from tasks.code_execution.sandbox.seccomp import ALLOWED, DEADLY, NOT_EXECUTABLE, program

HERE = str(Path(__file__).parent)
SETTINGS = {"job": "arena_job:job", "path": [HERE], "cpu_seconds": 0.2}
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")


def payload(code: str) -> bytes:
    return json.dumps({"code": code, "names": {}}).encode()


def says(expression: str) -> bytes:
    """A program whose result is the text of an expression."""
    return payload(f"RESULT = str({expression})\nraise SystemExit")


@pytest.fixture(scope="module")
def box():
    with Sandbox(**SETTINGS) as box:
        yield box


def test_a_payload_that_ends_the_process_costs_the_others_nothing(box):
    codes = [says("1"), payload("os._exit(0)"), says("2"), payload("while True: pass"), says("3")]
    results = box.run(codes)
    assert [r.value for r in results] == [b"1", None, b"2", None, b"3"]
    assert results[1].reason == "it ends the process"
    assert results[3].reason == "it takes too much time"
    assert box.run([]) == []


def test_payloads_of_one_run_share_a_process_and_runs_do_not(box):
    mark, look = says("threading.__dict__.setdefault('x', 1)"), says("hasattr(threading, 'x')")
    assert [r.value for r in box.run([mark, look])] == [b"1", b"True"]
    assert box.run([look])[0].value == b"False"


WAITS = "lock = threading.Lock()\nlock.acquire()\n"
TRICKLES = """
frame = sys._getframe()
while 'secrets' not in frame.f_locals:
    frame = frame.f_back
os.write(3, frame.f_locals['secrets'][:16] + (1 << 19).to_bytes(4, 'little'))
while True:
    lock.acquire(timeout=0.005)
    os.write(3, b'x')
"""


def test_one_that_waits_is_ended_whatever_it_does_with_the_pipe():
    """It would hold up a build for good: waiting costs no CPU time, and it has found its secret."""
    with Sandbox(**SETTINGS, wall_seconds=0.5) as box:
        closes = payload(WAITS + "os.close(3)\nlock.acquire()")
        results = box.run(
            [closes, payload(WAITS + TRICKLES), payload(WAITS + "lock.acquire()"), says("1")]
        )
    assert [r.value for r in results] == [None, None, None, b"1"]
    reasons = ["it is killed", "it waits too long", "it waits too long"]
    assert [r.reason for r in results[:3]] == reasons


def test_the_server_is_small_and_has_nothing_of_ours(box):
    """Forking a process with torch in it would cost megabytes and milliseconds for each program."""
    modules = "[m for m in ('torch', 'numpy', 'lightning', 'site', 'pyarrow') if m in sys.modules]"
    assert box.run([says(modules)])[0].value == b"[]"
    assert box.run([says("dict(os.environ)")])[0].value == b"{}"
    assert box.run([says("os.getpid() < 1000")])[0].value == (
        b"True" if "namespaces" in box.layers else b"False"
    )


@pytest.mark.parametrize("without", [["seccomp", "landlock"], ["rlimits"], ["identity"]])
def test_too_few_layers_are_refused_by_name(without):
    with pytest.raises(SandboxError, match="cannot be run safely") as error:
        Sandbox(**SETTINGS, without=without)
    for name in without:
        assert f"{name} (left out)" in str(error.value)


def test_a_job_that_does_not_exist_is_one_clear_line():
    with pytest.raises(SandboxError, match="does not start: ModuleNotFoundError"):
        Sandbox(job="no_such_module:job")
    with pytest.raises(ValueError, match="cpu_seconds"):
        Sandbox(**{**SETTINGS, "cpu_seconds": 0})


def test_a_server_that_is_gone_is_said():
    with Sandbox(**SETTINGS) as box:
        box.process.kill()
        with pytest.raises(SandboxError, match="has ended"):
            box.run([says("1")])


def test_hash_seed_decides_the_order_of_sets(box):
    order = says("list({'a', 'b', 'c', 'd', 'e', 'f'})")
    first = box.run([order])[0].value
    with Sandbox(**SETTINGS) as same, Sandbox(**SETTINGS, hash_seed=1) as other:
        assert same.run([order])[0].value == first
        assert other.run([order])[0].value != first


def test_pool_keeps_the_order_of_the_batches():
    with Pool(2, **SETTINGS) as pool:
        batches = [[says(str(10 * i + j)) for j in range(3)] for i in range(8)]
        found = [[int(r.value) for r in results] for results in pool.map(batches)]
    assert found == [[10 * i + j for j in range(3)] for i in range(8)]


def test_killing_the_caller_ends_the_server():
    """A build that is killed must not leave processes, least of all one that runs a program."""
    code = (
        "import sys, json; from tasks.code_execution.sandbox import Sandbox\n"
        f"box = Sandbox(job='arena_job:job', path=[{HERE!r}], cpu_seconds=60)\n"
        "print(box.process.pid, flush=True)\n"
        "box.run([json.dumps({'code': 'while True: pass', 'names': {}}).encode()])"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    server = int(caller.stdout.readline())
    time.sleep(0.3)
    family = [server, *descendants(server)]
    assert len(family) > 1
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    until = time.monotonic() + 20
    while any(map(alive, family)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, family))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [p for child in map(int, children) for p in (child, *descendants(child))]


@pytest.mark.parametrize("machine", ALLOWED)
def test_filter_says_what_its_tables_say(machine):
    """Interprets the filter: a wrong jump would let a system call through, or stop Python."""
    architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    for number in range(512):
        expected = refuse
        if number in {*ALLOWED[machine].values(), *NOT_EXECUTABLE[machine].values()}:
            expected = allow
        elif number in DEADLY[machine].values():
            expected = kill
        assert verdict(program(machine), number, architecture) == expected
    for number in NOT_EXECUTABLE[machine].values():
        assert verdict(program(machine), number, architecture, third=4) == refuse
        assert verdict(program(machine), number, architecture, third=3) == allow
    assert verdict(program(machine), 0, 0x40000003) == kill  # another architecture's calls
    if machine == "x86_64":
        assert verdict(program(machine), 0x40000000, architecture) == kill


def verdict(code: bytes, number: int, architecture: int, third: int = 0) -> int:
    """What the kernel's interpreter would return."""
    import struct

    data = {0: number, 4: architecture, 32: third}
    at, loaded = 0, 0
    while True:
        kind, yes, no, constant = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        match kind:
            case 0x20:
                loaded = data[constant]
            case 0x15:
                at += yes if loaded == constant else no
            case 0x35:
                at += yes if loaded >= constant else no
            case 0x45:
                at += yes if loaded & constant else no
            case 0x06:
                return constant
            case _:
                raise AssertionError(f"no such instruction: {kind:x}")
