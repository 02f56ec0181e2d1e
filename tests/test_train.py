"""`python train.py` as a person uses it: what a run leaves, and how it goes on after a stop."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, nano, run_folders

from tasks.checkpoints import is_whole
from tasks.metrics_file import read_metrics


def test_run_leaves_what_the_contract_promises(train):
    run = train("model=xpos")
    assert run.code == 0, run.err
    for name in ("config.yaml", "metrics.csv", "results.json", "status.json", "run.log"):
        assert (run.folder / name).is_file(), name
    assert (run.folder / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("last", "best"):
        state = torch.load(run.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert state["global_step"] <= 6
    results = json.loads((run.folder / "results.json").read_text())
    for name in [
        "test/loss",
        "test/bits_per_byte",
        "val/loss",
        "baseline/unigram_bits_per_byte",
        "tokens_per_s",
        "params",
        "baseline/bigram_bits_per_byte",
        "baseline/xz_bits_per_byte",
        "baseline/uniform_bits_per_byte",
    ]:
        assert results[name] > 0, name
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["vocab_size"] == 257 or config["model"]["vocab_size"] == 256
    assert "${" not in (run.folder / "config.yaml").read_text()
    assert json.loads((run.folder / "status.json").read_text())["status"] == "finished"
    assert str(run.folder) in run.out and "test/bits_per_byte" in run.out


def test_metrics_rows_carry_steps_tokens_and_seconds(train):
    run = train("model=gpt2", "callbacks.meter.every=2", "validate_every=3")
    rows = read_metrics(run.folder / "metrics.csv")
    assert [r["step"] for r in rows if "train/loss" in r] == ["2", "4", "6"]
    assert [r["step"] for r in rows if "val/loss" in r] == ["3", "6"]
    assert all(int(float(r["tokens"])) == int(r["step"]) * 4 * 64 for r in rows)
    seconds = [float(r["seconds"]) for r in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_same_seed_same_result_other_seed_another(train):
    first, again, other = (
        json.loads((train("model=rope", f"seed={s}").folder / "results.json").read_text())
        for s in (0, 0, 1)
    )
    assert first["test/loss"] == again["test/loss"] != other["test/loss"]


def test_dropout_is_part_of_the_repeatable_run(train):
    runs = [train("model=rope", "model.dropout=0.2") for _ in range(2)]
    weights = [_weights(run.folder) for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(*weights))


def test_accumulation_gives_the_step_of_the_larger_batch(train):
    """Two half batches are one whole batch: users trade memory for time with nothing else changed."""
    whole = train("model=rope", "data.batch_size=4", "max_steps=3")
    halves = train(
        "model=rope", "data.batch_size=2", "trainer.accumulate_grad_batches=2", "max_steps=3"
    )
    for a, b in zip(_weights(whole.folder), _weights(halves.folder)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_budget_in_tokens_and_minutes(train):
    run = train("model=nope", "max_steps=null", f"max_tokens={4 * 64 * 3}")
    assert json.loads((run.folder / "results.json").read_text())["steps"] == 3
    run = train("model=nope", "max_steps=null", "max_minutes=0.02", "validate_every=100000")
    results = json.loads((run.folder / "results.json").read_text())
    assert results["steps"] > 6 and results["train_seconds"] >= 1.2


def test_early_stopping_ends_a_run_that_no_longer_improves(train):
    run = train(
        "model=nope",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "optim.lr=1e-9",
        "+callbacks.early_stopping.min_delta=1",
        "max_steps=50",
        "validate_every=1",
    )
    assert json.loads((run.folder / "results.json").read_text())["steps"] < 50


def test_compiled_run_trains_and_its_checkpoint_fits_the_plain_model(train):
    run = train("model=xpos", "compile=true", "max_steps=2")
    assert run.code == 0, run.err
    from zoo.load import load_run

    load_run(run.folder, checkpoint="last")


def test_killed_and_resumed_ends_bit_for_bit_like_the_one_that_was_not(tmp_path, corpus):
    """SIGKILL at three moments; dropout on, so that the random draws must line up too."""
    arguments = ["model=xpos", "model.dropout=0.1", "max_steps=60", "callbacks.checkpoints.every=7"]
    arguments += ["callbacks.meter.every=5", "validate_every=20"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run([*nano(tmp_path, corpus), *arguments, f"hydra.run.dir={whole}"])
    command = [*nano(tmp_path, corpus), *arguments, f"hydra.run.dir={cut}"]
    for rows in (2, 6, 11):
        process = _start(command)
        _wait(process, lambda n=rows: len(read_metrics(cut / "metrics.csv")) >= n)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        command = [*nano(tmp_path, corpus), *arguments, f"ckpt={cut}"]
    _run(command)
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(cut)))
    assert _losses(whole) == _losses(cut)
    results = [json.loads((f / "results.json").read_text())["test/loss"] for f in (whole, cut)]
    assert results[0] == results[1]


def test_sigterm_saves_and_exits_and_ckpt_last_goes_on(tmp_path, corpus):
    arguments = [*nano(tmp_path, corpus), "model=gpt2", "max_steps=100000", "validate_every=100000"]
    process = _start(arguments)
    root = tmp_path / "runs"
    _wait(process, lambda: run_folders(root) and read_metrics(run_folders(root)[0] / "metrics.csv"))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    folder = run_folders(root)[0]
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 20
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    arguments[arguments.index("max_steps=100000")] = f"max_steps={step + 4}"
    out = _run([*arguments, "ckpt=last"])
    assert f"continuing {folder}" in out and run_folders(root) == [folder]
    assert json.loads((folder / "results.json").read_text())["steps"] == step + 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_checkpoint_is_passed_over_for_the_one_before(train, damage):
    run = train("model=nope", "callbacks.checkpoints.every=2", "max_steps=4")
    last = run.folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray()
    last.write_bytes(content)
    assert not is_whole(last)
    again = train("model=nope", "max_steps=8", f"ckpt={run.folder}")
    assert again.code == 0 and "previous.ckpt" in again.err
    assert json.loads((run.folder / "results.json").read_text())["steps"] == 8


def test_help_config_and_completion_work():
    assert "conf/model" in _run(["--help"]) or "model" in _run(["--help"])
    job = _run(["model=xpos", "--cfg", "job"])
    assert "zoo.positions.xpos.XPos" in job
    assert "complete" in _run(["--shell-completion", "install=bash"])


def _weights(folder: Path) -> list[torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return [state[name] for name in sorted(state)]


def _losses(folder: Path) -> list[tuple]:
    """Every row of metrics.csv less the clock."""
    clock = ("seconds", "train/tokens_per_s")
    return [
        tuple((k, v) for k, v in sorted(row.items()) if k not in clock)
        for row in read_metrics(folder / "metrics.csv")
    ]


def _start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait(process: subprocess.Popen, ready) -> None:
    end = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "ended before it was to be stopped"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def _run(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_lex_reads_fifty_times_its_training_length_through_a_bounded_cache(train, tmp_path):
    """Beyond N quality stays, and memory does not grow: what the model is for."""
    draw = random.Random(0)
    folder = tmp_path / "lines"
    folder.mkdir()
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "dog", "ran", "off", "with"]
    for i in range(60):
        text = " ".join(draw.choice(words) for _ in range(900))
        (folder / f"{i}.txt").write_text(f"{i} {text}")
    run = train(
        "model=xpos", f"data.path={folder}", "max_steps=120", "data.batch_size=8", "optim.lr=3e-3"
    )
    from zoo.load import load_run

    loaded = load_run(run.folder)
    N = loaded.model.context_length
    text = " ".join(draw.choice(words) for _ in range(20 * N))
    tokens = torch.as_tensor(loaded.tokenizer.encode(text).astype("int64"))[None, : 50 * N + 1]
    assert tokens.shape[1] == 50 * N + 1
    cache, losses, sizes = loaded.model.new_cache(), [], []
    with torch.no_grad():
        for chunk, targets in zip(tokens[:, :-1].split(N // 2, 1), tokens[0, 1:].split(N // 2)):
            logits = loaded.model(chunk, cache=cache)[0]
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
            sizes.append(cache.size)
    losses = torch.cat(losses)
    assert max(sizes) <= 2 * sizes[0], "at most a window of keys and values is kept"
    trained, beyond = losses[N // 2 : N].mean(), losses[-25 * N :].mean()
    assert trained < 2.5, "it has learned the words (a uniform guess costs 5.5 nats)"
    assert beyond < trained + 0.25
