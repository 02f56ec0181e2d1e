"""Weight arithmetic on files: what comes out is the formula, and nothing else is touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from tasks.time_vectors.arithmetic import combine, diff, main

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def tensors(seed: int, dtype: torch.dtype = F32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=F64).to(dtype)

    return {
        "embedding.weight": normal(33, 7),
        "blocks.0.mlp.expand.weight": normal(400, 700),  # several slices
        "blocks.0.norm.weight": normal(7),
        "scalar": normal(),
        "empty": normal(0, 3),
        "steps": torch.tensor([seed, 2**40], dtype=torch.int64),
        "seen": torch.tensor([bool(seed % 2)]),
    }


@pytest.fixture
def three(tmp_path: Path) -> dict[str, str]:
    for seed, name in enumerate("bcd"):
        save_file(tensors(seed), tmp_path / f"{name}.safetensors")
    return {name: str(tmp_path / f"{name}.safetensors") for name in "bcd"}


def run(*arguments: str) -> int:
    return main([*arguments])


def expected(weights: dict[str, float], dtypes=(F32, F32, F32)) -> dict[str, torch.Tensor]:
    b, c, d = (tensors(seed, dtype) for seed, dtype in enumerate(dtypes))
    found = {}
    for name in b:
        if not b[name].is_floating_point():
            found[name] = b[name]
            continue
        base, one, two = (x[name].double() for x in (b, c, d))
        found[name] = base + weights["c"] * (one - base) + weights["d"] * (two - base)
    return found


def test_a_linear_form_is_its_formula(three, tmp_path):
    terms = [f"--term=0.7={three['c']}", f"--term=-1.6={three['d']}"]
    out = tmp_path / "o.safetensors"
    assert run("combine", "--base", three["b"], *terms, "--output", str(out)) == 0
    wanted = expected({"c": 0.7, "d": -1.6})
    for name, value in load_file(out).items():
        if value.is_floating_point():
            assert value.dtype == F32
            torch.testing.assert_close(value.double(), wanted[name], rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(value, tensors(0)[name]), "buffers of integers keep the base's value"


def test_the_ends_are_the_models_themselves(three, tmp_path):
    combine(three["b"], [(1, three["c"]), (0, three["d"])], tmp_path / "one.safetensors")
    combine(three["b"], [(0, three["c"])], tmp_path / "zero.safetensors")
    for name, seed in (("one", 1), ("zero", 0)):
        found = load_file(tmp_path / f"{name}.safetensors")
        for key, value in tensors(seed).items():
            if value.is_floating_point():
                assert torch.equal(found[key], value)


@pytest.mark.parametrize("dtypes", [(BF16, F32, BF16), (F16, BF16, F64), (F64, F32, F16)])
def test_types_mix_and_are_rounded_once(tmp_path, dtypes):
    for seed, (name, dtype) in enumerate(zip("bcd", dtypes)):
        save_file(tensors(seed, dtype), tmp_path / f"{name}.safetensors")
    b, c, d = (tmp_path / f"{name}.safetensors" for name in "bcd")
    combine(b, [(0.25, c), (0.5, d)], tmp_path / "o.safetensors")
    exact = expected({"c": 0.25, "d": 0.5}, dtypes)
    for name, value in load_file(tmp_path / "o.safetensors").items():
        if value.is_floating_point():
            assert value.dtype == dtypes[0]
            # One rounding is half a unit in the last place; computing adds at most 2^-20 of it.
            unit = torch.finfo(dtypes[0]).eps * exact[name].abs().clamp(min=2**-14)
            slack = 4e-7 * 4 if F64 not in dtypes else 4e-15
            assert ((value.double() - exact[name]).abs() <= unit / 2 + slack).all()


def test_bfloat16_is_rounded_as_torch_rounds():
    from tasks.time_vectors.floats import narrow

    draw = np.random.default_rng(0)
    values = draw.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    ties = (np.arange(0x3F80, 0x3FA0, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    for array in (values, ties, np.float32([np.inf, -np.inf, 0.0, -0.0, 3.4e38])):
        ours = torch.from_numpy(narrow(array, "BF16").view(np.int16)).view(BF16)
        theirs = torch.from_numpy(array).to(BF16)
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])
    # Twice rounded, 1 + 2^-8 + 2^-40 would become 1: the way through float32 must not show.
    assert torch.from_numpy(narrow(np.array([1 + 2**-8 + 2**-40]), "BF16").view(np.int16)).view(
        BF16
    ) == torch.tensor(1 + 2**-7, dtype=BF16)


def test_weights_by_name(three, tmp_path):
    term = f"--term=1,*.mlp.*:0,scalar:0.5={three['c']}"
    out = tmp_path / "o.safetensors"
    assert run("combine", "--base", three["b"], term, "--output", str(out)) == 0
    found, b, c = load_file(out), tensors(0), tensors(1)
    assert torch.equal(found["blocks.0.mlp.expand.weight"], b["blocks.0.mlp.expand.weight"])
    assert torch.equal(found["embedding.weight"], c["embedding.weight"])
    torch.testing.assert_close(found["scalar"], (b["scalar"] + c["scalar"]) / 2)


def test_a_difference_is_added_as_a_term(three, tmp_path):
    diff(three["b"], three["c"], tmp_path / "tau.safetensors")
    tau = load_file(tmp_path / "tau.safetensors")
    assert "steps" not in tau and "seen" not in tau
    assert torch.equal(tau["scalar"], tensors(1)["scalar"] - tensors(0)["scalar"])
    combine(three["d"], [(2.0, tmp_path / "tau.safetensors")], tmp_path / "o.safetensors")
    found, name = load_file(tmp_path / "o.safetensors"), "embedding.weight"
    torch.testing.assert_close(found[name], tensors(2)[name] + 2 * tau[name])
    assert torch.equal(found["steps"], tensors(2)["steps"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.pop("scalar"), "has no scalar, which"),
        (lambda t: t.update(more=torch.zeros(2)), "has no more, which"),
        (lambda t: t.update({"blocks.0.norm.weight": torch.zeros(8)}), "has shape [8], in"),
    ],
)
def test_models_that_do_not_fit_are_refused(three, tmp_path, capsys, change, line):
    other = tensors(1)
    change(other)
    save_file(other, tmp_path / "c.safetensors")
    out = tmp_path / "o.safetensors"
    code = run("combine", "--base", three["b"], f"--term=1={three['c']}", "--output", str(out))
    said = capsys.readouterr().err
    assert code == 2 and line in said and said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.safetensors" for n in "bcd"]


def test_what_exists_is_never_overwritten(three, tmp_path, capsys):
    os.link(three["c"], tmp_path / "link.safetensors")
    before = Path(three["c"]).read_bytes()
    for output in (three["b"], three["c"], str(tmp_path / "link.safetensors")):
        arguments = ["--base", three["b"], f"--term=0.5={three['c']}", "--output", output]
        assert run("combine", *arguments) == 2
        assert "is an input" in capsys.readouterr().err
    assert Path(three["c"]).read_bytes() == before
    assert run("combine", "--base", three["b"], "--output", three["d"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x", "0.5", "nan=a", "0.5,a=b", "inf=a"])
def test_a_term_that_is_none_is_refused(three, tmp_path, capsys, text):
    out = str(tmp_path / "o.safetensors")
    assert run("combine", "--base", three["b"], f"--term={text}", "--output", out) == 2
    assert "--term=" in capsys.readouterr().err


def test_damaged_files_are_named(three, tmp_path, capsys):
    whole = Path(three["c"]).read_bytes()
    out = str(tmp_path / "o.safetensors")
    for content, line in ((whole[:-5], "cut short"), (b"nothing at all", "neither a safetensors")):
        Path(three["c"]).write_bytes(content)
        assert run("combine", "--base", three["b"], f"--term=1={three['c']}", "--output", out) == 2
        assert line in capsys.readouterr().err


def test_shards_go_in_and_out(three, tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    whole = tensors(0)
    names = list(whole)
    shards = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    for file, held in shards.items():
        save_file({name: whole[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    combine(folder, [(0.5, three["c"])], tmp_path / "o")
    combine(three["b"], [(0.5, three["c"])], tmp_path / "o.safetensors")
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        *shards,
        "config.json",
        "model.safetensors.index.json",
    }
    found = {k: v for file in shards for k, v in load_file(tmp_path / "o" / file).items()}
    single = load_file(tmp_path / "o.safetensors")
    assert all(torch.equal(found[name], single[name]) for name in names)
    combine(folder, [(0.5, three["c"])], tmp_path / "from_shards.safetensors")
    assert (tmp_path / "from_shards.safetensors").stat().st_size > 0


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, Path]:
    """Two files that take a while."""
    folder = tmp_path_factory.mktemp("large")
    for name in "bc":
        w = torch.full((40_000_000,), ord(name) / 3)
        save_file({"w": w}, folder / f"{name}.safetensors")
    return folder / "b.safetensors", folder / "c.safetensors"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_nothing(tmp_path, large, number):
    b, c = large
    before = sorted(b.parent.iterdir())
    arguments = ["--base", str(b), f"--term=0.3={c}", "--output", "o.safetensors"]
    command = [sys.executable, "-m", "tasks.time_vectors.arithmetic", "combine", *arguments]
    process = subprocess.Popen(
        [*command, "--threads", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        # Tests that run in the background of a shell inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files = Path(f"/proc/{process.pid}/fd")
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < 60:
        try:  # once the unnamed output is open, stop at once
            if any("deleted" in os.readlink(f) for f in files.iterdir()):
                break
        except OSError:
            continue
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    assert not [*tmp_path.iterdir()] and sorted(b.parent.iterdir()) == before
