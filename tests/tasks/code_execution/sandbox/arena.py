"""Runs attacks beside things that they could harm; prints what each did, as JSON.

    python arena.py ROOT [--without LAYER ...] [--only NAME ...]

Needs nothing but the standard library and the sandbox, so that it runs as any user.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attacks import ATTACKS

BENIGN = "x = sum(range(10))\nwon = x == 45"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    sys.path.insert(0, options.root)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(fight(Path(folder), options.without, options.only or list(ATTACKS))))


def fight(folder: Path, without: list[str], names: list[str]) -> dict[str, object]:
    """Name -> outcome and what changed outside."""
    from tasks.code_execution.sandbox import Sandbox

    outside = Outside(folder)
    here = str(Path(__file__).parent)
    found: dict[str, object] = {}
    with Sandbox(
        job="arena_job:job", path=[here], cpu_seconds=0.1, wall_seconds=120.0, without=without
    ) as box:
        layers = box.layers
        for name in names:
            before = outside.state()
            result = box.run([outside.payload(ATTACKS[name])])[0]
            after = outside.state()
            control = box.run([outside.payload(BENIGN)])[0]
            found[name] = {
                "value": None if result.value is None else result.value.decode(errors="replace"),
                "reason": result.reason,
                "changed": [what for what in before if before[what] != after[what]],
                "control": control.value == b"WON",
            }
        start = time.perf_counter()
        box.run([outside.payload(BENIGN)])
        milliseconds = 1000 * (time.perf_counter() - start)
    left = outside.processes_of_sandbox(here)
    outside.close()
    return {
        "uid": os.getuid(),
        "layers": layers,
        "attacks": found,
        "left": left,
        "ms": milliseconds,
    }


class Outside:
    """What an attack could reach if it got out."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = f"arena-{os.getpid()}"
        folder.chmod(0o777)
        self.secret = folder / "secret.txt"
        self.secret.write_text("root:secret\n")
        self.secret.chmod(0o666)
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        self.victim = subprocess.Popen(["/bin/sleep", "600"], **as_nobody)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.tcp.getsockname())
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0" + self.name)
        self.arrived = 0
        for listener in (self.unix, self.abstract):
            listener.listen()
        for listener in (self.tcp, self.udp, self.unix, self.abstract):
            listener.setblocking(False)

    def payload(self, code: str) -> bytes:
        names = {
            "HERE": str(self.folder),
            "NAME": self.name,
            "PORT": self.tcp.getsockname()[1],
            "VICTIM": self.victim.pid,
            "HOST": os.getpid(),
        }
        return json.dumps({"code": code, "names": names}).encode()

    def state(self) -> dict[str, object]:
        """Everything that an attack must leave as it is."""
        try:
            text, about = self.secret.read_text(), self.secret.stat()
            secret: object = (text, about.st_mode, about.st_mtime_ns)
        except OSError as error:
            secret = str(error)
        return {
            "files": sorted(path.name for path in self.folder.iterdir()),
            "secret": secret,
            "victim": self.victim.poll(),
            "arrived": self.count_arrivals(),
            "shared memory": Path("/dev/shm", self.name).exists(),
            "limits of the caller": os.getpriority(os.PRIO_PROCESS, 0),
        }

    def count_arrivals(self) -> int:
        for listener in (self.tcp, self.unix, self.abstract):
            try:
                listener.accept()[0].close()
                self.arrived += 1
            except BlockingIOError:
                continue
        try:
            self.udp.recv(10)
            self.arrived += 1
        except BlockingIOError:
            pass
        return self.arrived

    def processes_of_sandbox(self, mark: str) -> list[int]:
        """Processes that still run a zygote of this arena: its command line holds our folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if (
                    "arena_job:job" in words
                    and mark in words
                    and str(os.getpid()) in _parents(entry)
                ):
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()


def _parents(entry: Path) -> list[str]:
    """Process ids above one, itself not among them; 1 where its parent is gone."""
    found = []
    while entry.name not in ("0", "1"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            break
        parent = stat.rpartition(")")[2].split()[1]
        found.append(parent)
        entry = Path("/proc", parent)
    return found


if __name__ == "__main__":
    main()
