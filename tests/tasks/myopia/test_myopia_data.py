"""The synthetic sets: what is asked for is what the formula says, and every arm reads the same."""

import math

import numpy as np
import pytest
import torch

from tasks.data.packing import IGNORED
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import UserError
from tasks.myopia.multiplication import MultiplicationData, Symbols
from tasks.myopia.precaching import PreCachingData


def precaching(**options) -> PreCachingData:
    return PreCachingData(**{"context_length": 16, "batch_size": 4, **options})


def products(**options) -> MultiplicationData:
    return MultiplicationData(**{"context_length": 9, "batch_size": 4, "digits": 2, **options})


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_precaching_targets_are_the_formula(shift: int) -> None:
    """§3.1 by loops: terms before the start are dropped, and z = 0 asks for x."""
    data = precaching(p=0.4, window=5, frequency=7.0, shift=shift)
    batch = data.draw("train", np.arange(6))
    inputs, targets = batch["tokens_BT"].double(), batch["targets_BT"]
    assert {0.0, 1.0} == set(inputs[..., 1].unique().tolist())
    for b in range(6):
        for n in range(16):
            x, z = inputs[b, n].tolist()
            lags = range(shift, shift + 5)
            total = sum(math.sin(7 * inputs[b, n - i, 0]) for i in lags if n - i >= 0)
            assert targets[b, n].item() == pytest.approx(total if z else x, abs=1e-5)


def test_precaching_draws_what_it_says() -> None:
    """x standard normal, z with probability p, within five standard errors."""
    batch = precaching(p=0.3).draw("train", np.arange(3000))
    x, z = batch["tokens_BT"].double().unbind(-1)
    n = x.numel()
    assert abs(x.mean()) < 5 / n**0.5 and abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 5 / n**0.5
    assert abs(z.mean() - 0.3) < 5 * (0.21 / n) ** 0.5


@pytest.mark.parametrize("data", [precaching, products])
def test_samples_depend_on_seed_and_index_alone(data) -> None:
    """Arms with equal seeds read the same, however batched; the test is the same for every seed."""
    one, other = data(seed=1), data(seed=2)
    wide = one.draw("train", np.arange(8))["tokens_BT"]
    assert torch.equal(
        wide[3:5], data(seed=1, batch_size=2).draw("train", np.arange(3, 5))["tokens_BT"]
    )
    assert not torch.equal(wide, other.draw("train", np.arange(8))["tokens_BT"])
    for split in ("val", "test"):
        held = one.draw(split, np.arange(8))["tokens_BT"]
        assert torch.equal(held, other.draw(split, np.arange(8))["tokens_BT"])
        assert not torch.equal(held, wide)
    stream = iter(one.train_dataloader())
    assert torch.equal(torch.cat([next(stream)["tokens_BT"] for _ in range(2)]), wide)
    one.load_state_dict({"samples_seen": 4, "global_step": 1})
    assert torch.equal(next(iter(one.train_dataloader()))["tokens_BT"], wide[4:])


@pytest.mark.parametrize("padding", [3, 6])
def test_products_are_right_and_only_they_count(padding: int) -> None:
    """§4.3: least significant digit first, padded, the loss on the answer alone."""
    data = MultiplicationData(context_length=2 * padding + 7, batch_size=4, digits=3)
    assert data.padding == padding
    batch = data.draw("train", np.arange(400))
    sizes = set()
    for text, target, digits in zip(*(batch[n] for n in ("tokens_BT", "targets_BT", "digits_B2"))):
        answer = target[target != IGNORED]
        assert len(answer) == 6 and (target[:-6] == IGNORED).all()
        whole = data.tokenizer.decode([*text.tolist(), int(answer[-1])])
        x, y, z = whole.replace("*", "=").split("=")
        assert len(x) == len(y) == padding and z == data.tokenizer.decode(answer.tolist())
        values = [int(number[::-1]) for number in (x, y, z)]
        assert values[0] * values[1] == values[2]
        assert all(v < 10**d for v, d in zip(values, digits.tolist()))
        sizes.add(tuple(digits.tolist()))
    assert len(sizes) == 9
    assert int(batch["bytes"]) == 400 * 6


def test_symbols_survive_a_run_folder(tmp_path) -> None:
    """A trained run's answers are read back by the tokenizer that it saved."""
    Symbols().save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.decode(loaded.encode("1 2*0=9")) == "12*0=9"
    with pytest.raises(UserError, match="only 0123456789"):
        loaded.encode("1+1")


def test_mistakes_are_named() -> None:
    for make, line in (
        (lambda: precaching(p=0.0), r"p: must be in \(0, 1\]"),
        (lambda: precaching(window=0), "window: must be at least 1"),
        (lambda: precaching(shift=-1), "shift: must be at least 0"),
        (lambda: precaching(eval_samples=0), "eval_samples: must be at least 1"),
        (lambda: products(digits=10), r"digits: must be in 1\.\.9"),
        (lambda: products(digits=4, padding=3), "give model.context_length=17"),
        (lambda: products(digits=2, padding=2, context_length=64), "give model.context_length=9"),
        (lambda: products(digits=2, context_length=10), "give model.context_length=9"),
    ):
        with pytest.raises(ValueError, match=line):
            make()
