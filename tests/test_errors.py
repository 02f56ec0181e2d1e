"""Bad input gets one clear line that names the key or the file, before training, and costs nothing."""

import gzip
import shutil
from pathlib import Path

import pytest

# What a person may get wrong -> (arguments, what the line must name)
CASES = {
    "unknown key": (["model.widht=64"], ["widht"]),
    "unknown preset": (["model=ropee"], ["ropee"]),
    "unknown size": (["size=huge"], ["huge"]),
    "wrong type": (["model.num_layers=two"], ["model.num_layers"]),
    "out of range": (["model.dropout=1.5"], ["model.dropout", "[0, 1)"]),
    "indivisible": (["model.num_heads=3"], ["model.width", "num_heads=3"]),
    "key/value heads": (["model.mixer.num_kv_heads=3"], ["model.mixer.num_kv_heads"]),
    "learning rate": (["optim.lr=-1"], ["optim.lr"]),
    "schedule": (["optim.schedule.decay=sine"], ["optim.schedule.decay"]),
    "budget": (["max_steps=-1"], ["max_steps"]),
    "precision": (["trainer.precision=fp8"], ["trainer.precision"]),
    "position table": (
        ["model=gpt2", "model.position.max_length=32"],
        ["model.position.max_length", "context_length=64"],
    ),
    "odd window": (["model=xpos", "model.context_length=63"], ["context_length"]),
    "no checkpoint": (["ckpt=nowhere.ckpt"], ["nowhere.ckpt"]),
    "nothing to go on from": (["ckpt=last", "seed=77"], ["ckpt", "last"]),
    "data not given": (["data=text", "data.path=???"], ["data.path"]),
    "missing data": (["data.path=nowhere"], ["nowhere"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_names_the_key(train, tmp_path, case):
    arguments, names = CASES[case]
    run = train(*arguments)
    assert run.code != 0
    line = _the_line(run.err)
    assert all(name in line for name in names), run.err
    assert not list(tmp_path.rglob("*.ckpt")), "nothing may be trained"


@pytest.mark.parametrize("kind", ["empty", "binary", "too small"])
def test_corpus_that_cannot_be_used(train, tmp_path, kind):
    path = tmp_path / "input.txt"
    path.write_bytes(
        {"empty": b"", "binary": bytes(range(256)) * 40, "too small": b"A few words."}[kind]
    )
    run = train(f"data.path={path}")
    assert run.code != 0
    line = _the_line(run.err)
    assert ("data" in line) if kind == "too small" else (str(path) in line), run.err


def test_checkpoint_of_another_shape(train):
    run = train("model=rope")
    last = run.folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    wrong = train("model=rope", "model.width=32", f"ckpt={last}")
    assert wrong.code == 2 and "another shape" in _the_line(wrong.err)
    assert last.read_bytes() == before


def test_a_finished_run_is_never_overwritten(train):
    run = train("model=nope")
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    again = train("model=nope", "seed=1", f"hydra.run.dir={run.folder}")
    assert again.code == 2 and "already holds a run" in _the_line(again.err)
    for path, content in before.items():
        assert path.read_bytes().startswith(content), path  # run.log may grow


def test_full_disk_says_so_and_keeps_the_last_good_checkpoint(train, monkeypatch):
    import torch

    run = train("model=nope", "max_steps=4")
    last = run.folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    again = train("model=nope", "max_steps=8", f"ckpt={run.folder}")
    assert again.code == 2
    assert "No space left" in _the_line(again.err) and "paths.root" in _the_line(again.err)
    assert last.read_bytes() == before


def test_compressed_text_reads_as_text(train, tmp_path, corpus):
    folder = tmp_path / "zipped"
    folder.mkdir()
    for path in Path(corpus).glob("*.txt"):
        with path.open("rb") as source, gzip.open(folder / f"{path.name}.gz", "wb") as target:
            shutil.copyfileobj(source, target)
    assert train("model=nope", f"data.path={folder}").code == 0


def _the_line(err: str) -> str:
    """The line that says what is wrong: ours, or Hydra's for what does not compose."""
    lines = [line for line in err.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in err, err
    return ours[0] if ours else " ".join(lines)
