"""Gaps, probes and the gradient's parts against what can be worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tasks.errors import UserError
from tasks.myopia.angle import gradient_parts, gradients_as
from tasks.myopia.arms import read_arms
from tasks.myopia.gaps import context_bins, gap, label
from tasks.myopia.losses import Collector, Losses, contexts
from tasks.myopia.probes import correlations, probe_r2
from tasks.myopia.report import write_report
from tests.zoo import schemes
from tests.zoo.schemes import tokens
from zoo.report.stats import t_quantile

N, T = 40, 8


def losses(shift: float, seed: int, noise: float = 0.1) -> Losses:
    """Losses shared by all arms of a seed, and an arm's own shift, growing with the position."""
    common = np.random.default_rng(seed).normal(2.0, 1.0, (N, T))
    own = np.random.default_rng(int(1000 * abs(shift)) + seed).normal(0.0, noise, (N, T))
    context = np.tile(np.arange(T, dtype=np.int16), (N, 1))
    grown = common + shift * np.arange(T) / (T - 1) + own
    return Losses(grown.astype(np.float32), context, 7)


# ---- gaps


def test_gap_is_a_paired_difference() -> None:
    """What the sequences share cancels: the interval is that of the differences."""
    arm, base = ({str(s): losses(shift, s) for s in range(2)} for shift in (0.4, 0.0))
    found = gap(arm, base)
    rows = np.stack([(arm[s].losses.astype(float) - base[s].losses).mean(1) for s in arm])
    each = rows.mean(0)
    assert found.mean == pytest.approx(rows.mean(), abs=1e-12)
    half = t_quantile(0.975, N - 1) * each.std(ddof=1) / N**0.5
    assert found.sequences == pytest.approx(half, rel=1e-9)
    by_seed = rows.mean(1)
    assert found.seeds == pytest.approx(t_quantile(0.975, 1) * by_seed.std(ddof=1) / 2**0.5)
    assert found.sequences < np.concatenate([arm[s].losses.mean(1) for s in arm]).std() / 2


def test_gap_by_context_sees_where_it_grows() -> None:
    arm, base = ({"0": losses(shift, 0, noise=0.0)} for shift in (0.7, 0.0))
    found = [gap(arm, base, where).mean for where in context_bins(T)]
    assert found == pytest.approx([0.0, 0.1, 0.25, 0.55], abs=1e-5)
    assert [label(where) for where in context_bins(T)] == ["0", "1", "2-3", "4-7"]
    assert math.isnan(gap(arm, base, slice(20, 30)).mean)


def test_gap_is_malus_less_bonus() -> None:
    """The decomposition is exact, not an estimate of its own."""
    arms = {
        n: {"0": losses(shift, 0)}
        for n, shift in (("hidden", 0.4), ("vanilla", 0.1), ("local", 0.0))
    }
    whole = gap(arms["hidden"], arms["vanilla"]).mean
    malus, bonus = (gap(arms[n], arms["local"]).mean for n in ("hidden", "vanilla"))
    assert whole == pytest.approx(malus - bonus, abs=1e-12)


def test_other_sequences_do_not_pair() -> None:
    a, b = losses(0.4, 0), losses(0.0, 0)
    b.targets = 8
    with pytest.raises(UserError, match="tested on different sequences"):
        gap({"0": a}, {"0": b})


def test_losses_survive_a_run_folder_and_count_contexts(tmp_path: Path) -> None:
    """Unpredicted positions stay out; a context starts anew with its document."""
    collector = Collector()
    targets = torch.tensor([[1, 2, -100, 4], [-100] * 4, [5, 6, 7, 8]])
    documents = torch.tensor([[0, 0, 1, 1], [1] * 4, [2, 3, 3, 3]])
    context = contexts(targets.shape, documents)
    collector.add(torch.arange(12.0).view(3, 4), targets, context)
    collector.collect().save(tmp_path)
    found = Losses.read(tmp_path)
    assert np.isnan(found.losses).tolist() == [[False, False, True, False], [False] * 4]
    assert found.losses[1].tolist() == [8, 9, 10, 11]
    assert found.context.tolist() == [[0, 1, 0, 1], [0, 0, 1, 2]]
    assert contexts((1, 3), None).tolist() == [[0, 1, 2]]
    with pytest.raises(FileNotFoundError, match="only runs of the myopia tasks write it"):
        Losses.read(tmp_path / "elsewhere")


# ---- arms


def run_folder(
    root: Path, name: str, *, mixer: dict, shift: float, seed: int = 0, **config
) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    lr = config.pop("lr", 0.002)
    nested: dict = {
        "model": {"mixer": mixer, "width": 64},
        "task": {"frozen": None},
        "optim": {"lr": lr},
        "seed": seed,
        "data": {"seed": seed, "batch_size": 16},
        "name": name,
    }
    for key, value in config.items():
        section, _, leaf = key.partition("__")
        nested[section] = {**nested[section], leaf: value}
    (folder / "config.yaml").write_text(yaml.safe_dump(nested))
    (folder / "status.json").write_text(json.dumps({"status": "finished"}))
    val = 2 + shift + (0.0 if lr == 0.002 else -0.05 * shift)
    results = {"val/loss": val, "test/loss": 2 + shift}
    (folder / "results.json").write_text(json.dumps(results))
    losses(shift, seed).save(folder)
    return folder


VANILLA = {"_target_": "zoo.mixers.softmax.SoftmaxAttention"}


def myopic(variant: str) -> dict:
    return {"_target_": "zoo.mixers.myopic.MyopicAttention", "variant": variant, "beta": 0.0}


def test_report_of_matched_arms(tmp_path: Path) -> None:
    """Gap, bonus and malus from folders alone, and the warning that an arm is badly optimised."""
    arms = {"local": (myopic("frozen"), -0.1), "vanilla": (VANILLA, 0.0), "kv": (myopic("kv"), 0.9)}
    for seed in (0, 1):
        for name, (mixer, shift) in arms.items():
            run_folder(tmp_path, f"{name}{seed}", mixer=mixer, shift=shift, seed=seed)
    path = write_report([tmp_path])
    text = path.read_text()
    numbers = json.loads((tmp_path / "myopia.json").read_text())["all"]
    assert numbers["gaps"]["gap, kv"]["mean"] == pytest.approx(0.45, abs=0.02)
    assert numbers["gaps"]["bonus (vanilla - local)"]["mean"] == pytest.approx(0.05, abs=0.02)
    assert list(numbers["by_context"]["kv"]) == ["0", "1", "2-3", "4-7"]
    assert text.index("| local |") < text.index("| vanilla |") < text.index("| kv |")
    assert "Warning" not in text
    assert (tmp_path / "myopia_gap.png").stat().st_size > 5000
    for seed in (0, 1):  # the same, everywhere worse
        worse = losses(0.9, seed)
        worse.losses += 0.5
        worse.save(tmp_path / f"kv{seed}")
    assert "position 0 of `kv` is 0." in write_report([tmp_path]).read_text()


def test_each_arm_counts_at_its_own_best_rate(tmp_path: Path) -> None:
    for lr in (0.002, 0.0005):
        run_folder(tmp_path, f"v{lr}", mixer=VANILLA, shift=0.0 if lr == 0.002 else 0.3, lr=lr)
        run_folder(tmp_path, f"h{lr}", mixer=myopic("hidden"), shift=0.8, lr=lr)
    (arms,) = read_arms([tmp_path]).values()
    assert (arms["vanilla"].rate, arms["hidden"].rate) == (0.002, 0.0005)
    assert len(arms["vanilla"].tried) == 2


def test_validation_is_needed_to_choose_a_rate_alone(tmp_path: Path) -> None:
    """Runs that never validated are reported as they are, unless a choice depends on it."""
    folder = run_folder(tmp_path, "v", mixer=VANILLA, shift=0.0)
    (folder / "results.json").write_text(json.dumps({"test/loss": 2.0}))
    run_folder(tmp_path, "h", mixer=myopic("hidden"), shift=0.8)
    assert "| vanilla | 2.0000 |" in write_report([tmp_path]).read_text()
    for name, mixer in {"v2": VANILLA, "h2": myopic("hidden")}.items():
        run_folder(tmp_path, name, mixer=mixer, shift=0.0, lr=0.0005)
    with pytest.raises(UserError, match=r"v: has no val/loss.*validate_every"):
        read_arms([tmp_path])


@pytest.mark.parametrize(
    "other, line",
    [
        ({"data__batch_size": 8}, r"differ in data.batch_size \(8 against 16\)"),
        ({"model__width": 32}, "differ in model.width"),
        ({"lr": 0.001}, "vanilla has a run with optim.lr=0.002 seed=0 and hidden has none"),
        ({"seed": 3}, "seed=0 and hidden has none"),
    ],
)
def test_unmatched_arms_are_refused(tmp_path: Path, other: dict, line: str) -> None:
    """§4.5: a gap between arms of other batches or rates measures those. One line says which."""
    run_folder(tmp_path, "a", mixer=VANILLA, shift=0.0)
    run_folder(tmp_path, "b", mixer=myopic("hidden"), shift=0.1, **other)
    with pytest.raises(UserError, match=line) as refused:
        write_report([tmp_path])
    assert "\n" not in str(refused.value)


# ---- the gradient's parts, and probes


def test_gradient_parts_add_up() -> None:
    """total = myopic + future, the myopic part that of the arm itself, the model left as it was."""
    model = schemes.model("learned", num_layers=2).double()
    text, targets = tokens(2, 9), tokens(2, 9, seed=5)
    mixers = [block.mixer for block in model.blocks]

    def loss() -> torch.Tensor:
        return model.loss(text, targets)[0]

    found = gradient_parts(model, loss)
    assert [block.mixer for block in model.blocks] == mixers
    assert all(p.grad is None for p in model.parameters())
    parameters = [
        p for n, p in model.named_parameters() if "embed" not in n and "position" not in n
    ]

    def flat() -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), parameters)])

    total = flat()
    with gradients_as(model, "hidden"):
        own = flat()
    future = total - own
    expected = {
        "norm@total": total.norm(),
        "norm@myopic": own.norm(),
        "norm@future": future.norm(),
        "cosine": own @ future / own.norm() / future.norm(),
    }
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6)
    assert expected["norm@future"] / expected["norm@total"] > 0.05


def test_probe_is_judged_on_what_it_has_not_seen() -> None:
    """A linear target is found; noise is not, though 200 features could fit 100 samples of it."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(60, 10, 8, generator=draw, dtype=torch.float64)
    linear = states @ torch.randn(8, 1, generator=draw, dtype=torch.float64) + 3
    noise = torch.randn(60, 10, 1, generator=draw, dtype=torch.float64)
    found = probe_r2(states, torch.cat((linear, linear + linear.std() * noise, noise), -1))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[1] == pytest.approx(0.5, abs=0.1)
    assert -0.15 < found[2] < 0.05
    wide = torch.randn(20, 10, 200, generator=draw, dtype=torch.float64)
    assert probe_r2(wide, noise[:20])[0] < 0


def test_correlations_are_pearsons() -> None:
    draw = np.random.default_rng(0)
    states, targets = draw.normal(size=(5, 6, 3)), draw.normal(size=(5, 6, 2))
    targets[..., 0] = -2 * states[..., 1] + 1
    found = correlations(torch.from_numpy(states), torch.from_numpy(targets)).numpy()
    whole = np.asarray(np.corrcoef(np.concatenate((states, targets), -1).reshape(30, 5).T))
    assert np.abs(found - whole[:3, 3:]).max() < 1e-12
    assert found[1, 0] == pytest.approx(-1)
