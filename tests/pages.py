"""The systems' pages: the commands and snippets on them, and a desk to execute them at.

A desk is a folder in which what a page names exists (`my_folder`, `gpt2`, `RUN_FOLDER`), so that a
command runs as printed, with a few more overrides that make it small. Each command runs once; what
one leaves is what another command's placeholder stands for.
"""

import contextlib
import glob
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, run_folders

PAGES = [
    "README.md",
    *(f"{room}/README.md" for room in ("tasks", "zoo", "kernels")),
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tasks").glob("*/README.md")),
]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Command:
    """One command line as printed, comments cut, and the first page that it stands on."""

    page: str
    text: str

    @property
    def arguments(self) -> list[str]:
        """What follows `python train.py` or `python -m MODULE`."""
        return shlex.split(self.text)[3 if self.module else 2 :]

    @property
    def module(self) -> str | None:
        words = shlex.split(self.text)
        return words[2] if words[1] == "-m" else None


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages, in order."""
    text = (ROOT / page).read_text()
    return [content for language, content in _FENCED.findall(text) if language in languages]


def commands() -> list[Command]:
    """Every `python …` line of a fenced block and every `python …` within a sentence, once.

    Left out: `python -m pytest`, which runs this, and words of a sentence that begin another command.
    """
    found: dict[str, Command] = {}
    mentioned: dict[str, Command] = {}
    for page in PAGES:
        fenced = "\n".join(blocks(page, "", "bash", "sh")).replace("\\\n", " ")
        for line in fenced.splitlines():
            for part in _uncommented(line).split(" && "):
                text = " ".join(part.removeprefix("srun ").split())
                if text.startswith("python ") and text != "python -m pytest":
                    found.setdefault(text, Command(page, text))
        prose = _FENCED.sub("", (ROOT / page).read_text())
        for text in re.findall(r"`(python [^`]*)`", prose):
            text = re.sub(r"\s*\[--.*?\]", "", " ".join(text.split()))  # what may be left out
            mentioned.setdefault(text, Command(page, text))
    for text, command in mentioned.items():
        if not any(known.startswith(text) for known in found):
            found[text] = command
    return list(found.values())


def _uncommented(line: str) -> str:
    quoted = re.match(r"""(?:[^'"#]|'[^']*'|"[^"]*"|(?<=\S)#)*""", line)
    return quoted[0] if quoted else line


class Desk:
    """Where the commands of one page are executed.

    small: the arguments that a command gets besides. made_by: {name on the page: the command that
    makes it}, or (command, folder within what it leaves).
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *,
        small: Callable[[Command], list[str]],
        made_by: dict[str, str | tuple[str, str]],
    ):
        self.folder, self.cache, self.small, self.made_by = folder, cache, small, made_by
        self.left: dict[str, Path] = {}  # by the text of a command

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Within it this process is at the desk."""
        known = {name: os.environ.get(name) for name in ("ZOO_RUNS", "ZOO_CACHE", "PYTHONPATH")}
        os.environ.pop("ZOO_RUNS", None)
        os.environ |= {"ZOO_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}
        arguments, path = sys.argv, list(sys.path)
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            sys.argv, sys.path[:] = arguments, path
            for name, value in known.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def prepare(self, page: str, text: str) -> None:
        """Makes what a command or snippet names, by the commands that the page gives for it."""
        for name, maker in self.made_by.items():
            maker, part = maker if isinstance(maker, tuple) else (maker, ".")
            if maker == text or not re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", text):
                continue
            place, left = self.folder / name, self.run(Command(page, maker))
            if re.fullmatch(r"[\w/-]+", name) and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(left / part)

    def run(self, command: Command, *, apart: bool = False) -> Path:
        """Executes a command and returns the folder of the run or sweep that it left, if any.

        apart: in processes of its own, as what starts further ones must be.
        """
        if command.text in self.left:
            return self.left[command.text]
        self.prepare(command.page, command.text)
        arguments = merged(command.arguments, self.small(command))
        globs = (glob.glob(argument, root_dir=self.folder) or [argument] for argument in arguments)
        arguments = [found for some in globs for found in some]
        for option, name in itertools.pairwise(arguments):
            if option == "--output" and (self.folder / name).is_dir():  # several write to "O"
                shutil.rmtree(self.folder / name)
        before = set(run_folders(self.folder))
        start = _start_apart if apart else execute
        with self.here():
            assert start(command, arguments) == 0, shlex.join([command.text, "->", *arguments])
        self.left[command.text] = _newest(self.folder, before)
        return self.left[command.text]


def merged(given: list[str], small: list[str]) -> list[str]:
    """The arguments given, less those that `small` has too, then `small`: options first, overrides
    behind the last override given."""
    named = {_key(argument) for argument in small}
    kept, dropped = [], False
    for argument in given:
        if not dropped and _key(argument) not in named:
            kept.append(argument)
        dropped = _key(argument) in named and argument.startswith("--") and "=" not in argument
    options = [a for a in small if a.startswith("-")]
    last = max((i for i, a in enumerate(kept, 1) if "=" in a), default=len(kept))
    return [*options, *kept[:last], *(a for a in small if a not in options), *kept[last:]]


def _key(argument: str) -> str:
    return argument.lstrip("+").partition("=")[0]


def execute(command: Command, arguments: list[str]) -> int:
    """Runs a command with these arguments in this process; returns its exit status."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        if command.module is None:
            import train

            sys.argv = [str(ROOT / "train.py"), *arguments]
            train.main()
        else:
            sys.argv = [command.module, *arguments]
            runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _start_apart(command: Command, arguments: list[str]) -> int:
    start = ["-m", command.module] if command.module else [str(ROOT / "train.py")]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run([sys.executable, *start, *arguments], env=environment).returncode


def _newest(folder: Path, before: set[Path]) -> Path:
    """The sweep or run folder that has come, else the desk itself."""
    new = [run for run in run_folders(folder) if run not in before]
    if not new:
        return folder
    run = new[-1]
    return run.parent if (run.parent / "comparison.html").exists() else run
