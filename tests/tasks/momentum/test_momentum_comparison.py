"""The published comparison as a person runs it, its control, and what a sweep of it says."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from tasks.momentum.bench import main as bench
from tasks.momentum.compare import judge, main
from tests.zoo import oracle, schemes
from tests.zoo.schemes import D, H, tokens

CONTROL = {"_target_": "tasks.momentum.control.ValueConvolution", "_partial_": True}


def test_run_measures_both_tables(train, tmp_path):
    """Perplexity at N/4, N/2 and N, and few-shot accuracy on a set from JSON lines."""
    rows = [{"text": f"{i}", "label_text": ["negative", "positive"][i % 2]} for i in range(8)]
    (tmp_path / "mr").mkdir()
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "mr" / f"{split}.jsonl").write_text(lines)
    run = train(
        "experiment=momentum",
        "hydra.mode=RUN",
        "arm=eta7",
        "size=nano",
        "data.test_fraction=0.3",
        "model.context_length=64",
        f"task.sets={{mr:{{folder:{tmp_path}}}}}",
        "task.draws=2",
    )
    assert run.code == 0, run.err
    results = json.loads((run.folder / "results.json").read_text())
    assert all(results[f"test/ppl@{n}"] > 1 for n in (16, 32, 64))
    assert 0 <= results["test/acc@mr"] <= 100 and results["fewshot/shots@mr"] == 1
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["mixer"]["eta"] == 0.7


@pytest.mark.parametrize("name", ["momentum", "momentum_fewshot"])
def test_experiments_have_seeds_and_controls(name):
    config = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())
    params = config["hydra"]["sweeper"]["params"]
    assert params["seed"] == "0,1,2"
    arms = params["arm"].split(",")
    assert {"plain", "eta5", "eta9", "convolution"} <= set(arms) <= set(config["arms"])
    assert config["arms"]["plain"]["eta"] == 0.0


def test_the_papers_own_setting():
    config = yaml.safe_load((ROOT / "conf" / "experiment" / "momentum_paper.yaml").read_text())
    assert config["optim"]["betas"] == [0.9, 0.98] and config["optim"]["lr"] == 3e-4
    assert config["optim"]["schedule"]["warmup"] == 20000 and config["max_steps"] == 500_000
    assert config["trainer"]["gradient_clip_val"] == 2.0
    devices = config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    assert devices * config["data"]["batch_size"] * 1024 == 512 * 1024
    assert config["task"]["lengths"] == [256, 512, 1024]


# ---- the control


def test_control_filters_past_values_alone():
    """sum over j = 1..4 of w_j v_(t-j): not the current value, nothing older, nothing across texts."""
    model = schemes.model("rope", "causal", mixer={**CONTROL, "eta": 0.5}).double()
    mixer = model.blocks[0].mixer
    with torch.no_grad():
        mixer.filter.copy_((0.5 ** torch.arange(1, 5.0)).view(4, 1, 1, 1).expand_as(mixer.filter))
    v = torch.randn(2, H, 9, D, dtype=torch.float64)
    found = mixer.past(v, model.mask, None)
    for t in range(9):
        expected = sum(0.5**j * v[:, :, t - j] for j in range(1, 5) if t >= j)
        assert torch.allclose(found[:, :, t], torch.as_tensor(expected, dtype=v.dtype))
    ids = torch.tensor([[0] * 5 + [1] * 7])
    text = tokens(1, 12)
    packed = model(text, documents_BT=ids)
    alone = torch.cat([model(part) for part in text.split([5, 7], 1)], 1)
    assert oracle.closeness(packed, alone) <= 1e-10


def test_control_decodes_as_it_reads():
    model = schemes.model("rope", "causal", mixer=CONTROL).double()
    text = tokens(2, 20)
    with torch.no_grad():
        cache = model.new_cache()
        parts = [model(part, cache=cache) for part in text.split([3, 1, 1, 9, 2, 4], 1)]
        assert oracle.closeness(torch.cat(parts, 1), model(text)) <= 1e-10


# ---- sweeps


def made_up_sweep(folder: Path, ppl: dict[str, list[float]]) -> Path:
    number = 0
    for arm, values in ppl.items():
        for seed, value in enumerate(values):
            run = folder / str(number)
            run.mkdir(parents=True)
            number += 1
            results = {"test/ppl@64": value, "test/acc@icl": 10 * value, "params": 100}
            (run / "results.json").write_text(json.dumps(results))
            (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "arm": arm}))
            (run / "status.json").write_text(json.dumps({"status": "finished"}))
    return folder


def test_gains_are_paired_and_measured_against_seed_noise(tmp_path):
    """Seeds differ by far more than the arms: paired, the small gain shows all the same."""
    plain = [4.0, 5.0, 6.0]
    noise = [math.log(x) for x in plain]
    arms = {
        "plain": plain,
        "eta5": [x * math.exp(d) for x, d in zip(plain, (-0.01, -0.012, -0.011))],
        "eta9": [x * math.exp(d) for x, d in zip(plain, (-0.05, 0.06, 0.01))],
    }
    written = judge(made_up_sweep(tmp_path, arms)).read_text()
    lines = {line.split("|")[1].strip(): line for line in written.splitlines() if "| **" in line}
    losses = written.split("## perplexity at 64")[1].split("##")[0]
    better = next(line for line in losses.splitlines() if line.startswith("| eta5"))
    # mean -0.011, s.e. 0.001/sqrt 3, t(2) = 4.303
    assert "-0.0110 [-0.0135, -0.0085]" in better and "**better**" in better
    assert "**not distinguishable**" in lines["eta9"]
    sd = math.sqrt(sum((x - sum(noise) / 3) ** 2 for x in noise) / 2)
    assert f"Seed noise of plain: {sd:.3g} nats." in losses
    accuracy = written.split("## accuracy, icl (%)")[1]
    worse = next(line for line in accuracy.splitlines() if line.startswith("| eta5"))
    assert "**worse**" in worse, "of accuracies more is better"


def test_a_sweep_without_the_plain_arm_is_refused(tmp_path, capsys):
    assert main([str(made_up_sweep(tmp_path, {"eta5": [4.0]}))]) == 2
    assert "needs finished runs of arm=plain" in capsys.readouterr().err


@pytest.mark.slow
def test_the_cost_of_a_step_is_measured(tmp_path, capsys):
    assert bench(["--rounds", "1", "--json", str(tmp_path / "bench.json")]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert "step, momentum, T 1024" in rows and all(ratio > 0 for ratio in rows.values())
