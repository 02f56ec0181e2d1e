"""Shared by all tests: small corpora made on the spot, and runs of train.py in this process."""

import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from absl import logging as absl_logging

ROOT = Path(__file__).parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
# Where transformers copies the modelling files that exported models bring.
_MODULES = tempfile.TemporaryDirectory(prefix="modules-")
os.environ.setdefault("HF_MODULES_CACHE", _MODULES.name)
# rouge-score brings absl, whose handler closes the stream that it found when it was first imported as
# soon as Hydra sets up logging; let that not be one of pytest's.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small documents of made-up sentences, enough for a nano model to learn from."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    words = [line.strip() for line in Path(__file__).read_text().split() if line.isalpha()]
    for i in range(40):
        text = " ".join(draw.choice(words) for _ in range(400))
        (folder / f"{i:02d}.txt").write_text(f"Document {i}. {text}\n")
    return folder


@dataclass
class Outcome:
    """What a run of train.py in this process left."""

    code: int
    folder: Path | None
    out: str
    err: str


@pytest.fixture
def train(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs `train.py` with these arguments, nano and short unless they say otherwise."""

    def launch(*arguments: str, data: bool = True) -> Outcome:
        from hydra.core.global_hydra import GlobalHydra

        import train as program

        GlobalHydra.instance().clear()
        given = nano(tmp_path, corpus if data else None)
        named = {a.split("=")[0] for a in arguments}
        argv = [a for a in given if a.split("=")[0] not in named]
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments, *argv])
        known = set(run_folders(tmp_path / "runs"))
        code = 0
        try:
            program.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        new = [f for f in run_folders(tmp_path / "runs") if f not in known]
        captured = capfd.readouterr()
        return Outcome(code, new[-1] if new else None, captured.out, captured.err)

    return launch


def nano(tmp_path: Path, corpus: Path | None) -> list[str]:
    """The overrides that make a run take a second or two."""
    data = [] if corpus is None else ["data=text", f"data.path={corpus}"]
    return [
        *data,
        "size=nano",
        "max_steps=6",
        "data.batch_size=4",
        "trainer.precision=fp32",
        f"paths.root={tmp_path / 'runs'}",
        f"paths.cache={tmp_path.parent / 'cache'}",
    ]


def run_folders(root: Path) -> list[Path]:
    """Every run folder below, oldest first."""
    found = [path.parent for path in root.rglob("status.json")]
    return sorted(found, key=lambda folder: folder.stat().st_mtime)
