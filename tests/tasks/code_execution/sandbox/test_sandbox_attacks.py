"""Hostile programs: whatever they try, nothing outside the sandbox changes and the next one runs.

All of them run as root (the sandbox then becomes nobody) and as an ordinary user, in this process's
role and, for a root, in that of nobody too; what an attack did is judged by canaries outside.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from attacks import ALONE, ATTACKS, ENDLESS  # noqa: E402

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")
ROLES = ["root", "nobody"] if os.getuid() == 0 else ["user"]
NOBODY = 65534
Report = dict


@pytest.fixture(scope="module")
def open_copy() -> Iterator[Path]:
    """The sandbox's code and the arena, where every user can read them."""
    folder = Path(tempfile.mkdtemp(prefix="arena-"))
    for part in ("tasks/code_execution/sandbox", "tasks/__init__.py", "tasks/errors.py"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    shutil.copy(ROOT / "tasks/code_execution/__init__.py", folder / "tasks/code_execution")
    shutil.copytree(HERE, folder / "arena")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def python_of_nobody() -> str:
    """An interpreter that a stranger may run: ours can lie in a home that is closed to him."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-c", check], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/"
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip("no Python of 3.11 or later that another user may run")


@pytest.fixture(scope="module")
def fight(open_copy: Path):
    """Runs attacks in a role; what became of them."""

    def run(role: str, *arguments: str) -> Report:
        as_nobody = (
            {"user": NOBODY, "group": NOBODY, "extra_groups": []} if role == "nobody" else {}
        )
        python = python_of_nobody() if role == "nobody" else sys.executable
        done = subprocess.run(
            [python, "-B", str(open_copy / "arena" / "arena.py"), str(open_copy), *arguments],
            capture_output=True,
            text=True,
            cwd="/",
            **as_nobody,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def reports(fight) -> dict[str, Report]:
    found: dict[str, Report] = {}

    class Lazy(dict):
        def __missing__(self, role: str) -> Report:
            found[role] = self[role] = fight(role)
            return found[role]

    return Lazy()


def contained(report: Report, name: str) -> None:
    attack = report["attacks"][name]
    assert attack["value"] != "WON", "it got what it wanted"
    assert attack["changed"] == [], "something outside changed"
    assert attack["control"], "the next program does not run"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_contained(reports, role, name):
    contained(reports[role], name)
    if name in ENDLESS:
        assert reports[role]["attacks"][name]["reason"] == "it takes too much time"


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_left_behind(reports, role):
    assert reports[role]["left"] == []


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_what_they_say_and_layers_hold(reports, role):
    report = reports[role]
    assert (report["uid"] == 0) == (role == "root")
    assert {"rlimits", "identity"} <= set(report["layers"])
    assert {"landlock", "seccomp"} & set(report["layers"])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("without", [["seccomp"], ["landlock"], ["namespaces"]], ids="".join)
def test_a_missing_layer_is_covered_by_the_others(reports, fight, role, without):
    """A container may have no namespaces, an old kernel no Landlock."""
    have = set(reports[role]["layers"]) - set(without)
    if not have & {"landlock", "seccomp"}:
        pytest.skip("this machine has only one of Landlock and seccomp")
    report = fight(role, "--without", *without, "--only", *ALONE)
    assert without[0] not in report["layers"]
    for name in ALONE:
        contained(report, name)
