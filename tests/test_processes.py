"""Real processes train what one trains: copied (DDP), sharded (FSDP2), cut (tensor-parallel), resumed, in sweeps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, nano, run_folders
from test_conf import composed

from tasks.metrics_file import read_metrics
from tasks.run_folder import plain

TWO = ["trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=2"]
PLAIN = ["optim.schedule.decay=constant", "optim.schedule.warmup=0", "callbacks.meter.every=2"]


@pytest.fixture
def start(tmp_path, corpus):
    """Runs train.py in a process of its own, with a global batch of 4 windows; returns what it said."""

    def launch(*arguments: str) -> str:
        named = {a.split("=")[0] for a in arguments}
        given = [a for a in nano(tmp_path, corpus) if a.split("=")[0] not in named]
        command = [sys.executable, str(ROOT / "train.py"), *arguments, *PLAIN, *given]
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return launch


@pytest.fixture
def alone(start, tmp_path):
    folder = tmp_path / "alone"
    start("model=xpos", "max_steps=4", f"hydra.run.dir={folder}")
    return folder


def assert_same(one: Path, two: Path) -> None:
    """Weights, losses and rows agree to the rounding of a sum in another order."""
    for a, b in zip(_weights(one), _weights(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    losses = [json.loads((f / "results.json").read_text())["test/loss"] for f in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    rows = [[r for r in read_metrics(f / "metrics.csv") if "train/loss" in r] for f in (one, two)]
    assert len(rows[0]) == len(rows[1]) > 0
    for a, b in zip(*rows):
        for name in ("step", "tokens", "train/loss", "train/lr", "train/grad_norm"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3)


def test_two_copies_train_what_one_process_trains(start, alone, tmp_path):
    """`trainer=ddp`: one folder, one set of files, the losses of one process on the whole batch."""
    folder = tmp_path / "ddp"
    start("model=xpos", "max_steps=4", "trainer=ddp", *TWO, f"hydra.run.dir={folder}")
    assert_same(alone, folder)


def test_a_sharded_run_goes_on_in_one_process(start, alone, tmp_path):
    """`trainer=fsdp` writes whole checkpoints: a model trained on many devices is read on a laptop."""
    folder = tmp_path / "fsdp"
    start("model=xpos", "max_steps=2", "trainer=fsdp", *TWO, f"hydra.run.dir={folder}")
    start("model=xpos", "max_steps=4", f"ckpt={folder}")
    assert_same(alone, folder)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_sharded_then_copied(start, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "changed"
    start("model=rope", "max_steps=6", f"hydra.run.dir={whole}")
    start("model=rope", "max_steps=2", f"hydra.run.dir={folder}")
    start("model=rope", "max_steps=4", "trainer=fsdp", *TWO, f"ckpt={folder}")
    start("model=rope", "max_steps=6", "trainer=ddp", *TWO, f"ckpt={folder}")
    assert_same(whole, folder)


SCHEMES = sorted(p.stem for p in (ROOT / "conf" / "model").glob("*.yaml"))
CUT = [
    *([f"model={name}"] for name in SCHEMES if name not in ("decoder", "regressor")),
    ["model=rope", "model.num_heads=4", "model.mixer.num_kv_heads=2", "model.mixer.bias=true",
     "model.mlp._target_=zoo.mlp.SwiGLU", "model.norm._target_=zoo.norms.RMSNorm"],
    ["model=xpos", "mask=blockwise", "model.mask.block=8", "model.tie_embeddings=false"],
    ["model=t5", "mask=sliding_window", "model.mask.window=5", "+model.mlp.bias=true"],
]  # fmt: skip


def test_layers_cut_over_two_processes_compute_what_whole_ones_do(tmp_path):
    """Loss and every gradient to 1e-10, for every position scheme, grouped heads and gated networks;
    of the layers each process holds half."""
    nodes = {}
    for choices in CUT:
        config = plain(composed(*choices, "size=nano"))
        node = config["model"] | {"vocab_size": 50, "context_length": 24, "width": 32}
        nodes[" ".join(choices)] = node
    jobs = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "tensor_parallel_job.py"), str(rank),
             str(tmp_path / "meet"), json.dumps(nodes)],
            env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [job.communicate(timeout=300) for job in jobs]
    assert all(job.returncode == 0 for job in jobs), said[0][1][-3000:] + said[1][1][-1000:]
    held = {line.rsplit(" ", 2)[0]: line.rsplit(" ", 2)[1:] for line in said[0][0].splitlines()}
    assert set(held) == set(nodes)
    # nope, tied: 50 x 32 embedding and 5 norms of 32 whole; of two layers of 12 x 32² a half.
    assert held["model=nope"] == [str(50 * 32 + 5 * 32 + 12 * 32**2), str(1760 + 24 * 32**2)]


CUT_RUN = ["trainer=tensor_parallel", "trainer.accelerator=cpu"]


def test_a_run_on_cut_layers_goes_on_in_one_process(start, alone, tmp_path):
    """`trainer=tensor_parallel`: both processes read the batches of one, checkpoints are whole."""
    folder = tmp_path / "cut"
    two = [*CUT_RUN, "trainer.devices=2"]
    start("model=xpos", "max_steps=2", *two, f"hydra.run.dir={folder}")
    start("model=xpos", "max_steps=4", f"ckpt={folder}")
    assert_same(alone, folder)


@pytest.mark.slow
def test_cut_and_sharded_over_four_processes(start, tmp_path):
    """Two groups of two: from one process to four, to two that only shard, and back to four."""
    whole, folder = tmp_path / "whole", tmp_path / "changed"
    gated = ["model=t5", "model.mlp._target_=zoo.mlp.SwiGLU"]
    start(*gated, "max_steps=8", f"hydra.run.dir={whole}")
    start(*gated, "max_steps=2", f"hydra.run.dir={folder}")
    four = [*CUT_RUN, "trainer.devices=4", "data.batch_size=2"]
    start(*gated, "max_steps=4", *four, f"ckpt={folder}")
    start(*gated, "max_steps=6", "trainer=fsdp", *TWO, f"ckpt={folder}")
    start(*gated, "max_steps=8", *four, f"ckpt={folder}")
    assert_same(whole, folder)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (["mixer=momentum"], "mixer Momentum cannot be cut over processes"),
        (["model.num_heads=1"], "2 processes do not divide model.num_heads=1"),
        (["model.mixer.num_kv_heads=1"], "2 processes do not divide model.mixer.num_kv_heads=1"),
        (["trainer.devices=3"], "3 processes are not a multiple of 2"),
        (["task=extrapolation"], "Extrapolation does not run on layers that are cut"),
        (["trainer.strategy.tensor_parallel=0"], "tensor_parallel: must be at least 1"),
    ],
    ids=["mixer", "heads", "groups", "devices", "task", "none"],
)
def test_what_cannot_be_cut_is_refused_in_a_line(train, wrong, line):
    """Before any process is started."""
    devices = [] if "trainer.devices=3" in wrong else ["trainer.devices=2"]
    run = train("model=rope", *CUT_RUN, *devices, *wrong)
    assert run.code == 2 and line in run.err and run.err.count("error: ") == 1


def test_a_sweep_of_runs_on_two_processes_each(start, tmp_path):
    """Each job starts its second process for itself alone, not for the sweep that it is part of."""
    start("-m", "model=rope", "seed=0,1", "max_steps=2", "trainer=ddp", *TWO)
    folders = run_folders(tmp_path / "runs")
    assert [f.name for f in folders] == ["0", "1"]
    for seed, folder in enumerate(folders):
        results = json.loads((folder / "results.json").read_text())
        assert (results["seed"], results["steps"]) == (seed, 2)
        assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    assert (folders[0].parent / "comparison.csv").is_file()


def test_runs_of_several_processes_are_refused_where_the_launcher_starts_its_own(train, tmp_path):
    run = train("-m", "model=rope", "seed=0,1", "trainer=ddp", *TWO, "hydra/launcher=joblib")
    assert run.code == 1 and "hydra/launcher: joblib cannot start runs of 2 processes" in run.err


@pytest.mark.parametrize(
    "launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)]
)
def test_a_sweep_side_by_side(start, tmp_path, launcher, monkeypatch):
    """Jobs in processes of their own: the same folders, the same comparison."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = start("-m", "model=rope", "seed=0,1", "max_steps=2", f"hydra/launcher={launcher}")
    folders = run_folders(tmp_path / "runs")
    assert sorted(f.name for f in folders) == ["0", "1"]
    assert all((f / "results.json").is_file() for f in folders)
    assert "comparison.html" in out and "best: " in out


def _weights(folder: Path) -> list[torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return [state[name] for name in sorted(state)]
