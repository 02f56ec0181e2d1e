"""Runs of the myopia tasks from the command line: what they leave, and what they say when they cannot."""

import json

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tasks.myopia.losses import Losses
from tasks.myopia.multiplication import MultiplicationData
from tasks.myopia.past import frozen_model
from zoo.decoder import Decoder
from zoo.load import load_run

SHORT = ("max_steps=3", "validate_every=3", "data.max_eval_tokens=2000", "model.num_layers=1")


def results(run) -> dict:
    assert run.code == 0, run.err
    return json.loads((run.folder / "results.json").read_text())


def test_local_arm_beside_its_vanilla_model(train, tmp_path) -> None:
    """The way from a vanilla run to local myopia: the frozen run is found, used and left untouched."""
    vanilla = train("task=myopia", "task.angle_every=2", *SHORT)
    measured = results(vanilla)
    kept = Losses.read(vanilla.folder)
    assert np.nanmean(kept.losses) == pytest.approx(measured["test/loss"], rel=1e-4)
    metrics = (vanilla.folder / "metrics.csv").read_text()
    assert "train/gradient_cosine" in metrics.splitlines()[0]
    before = (vanilla.folder / "checkpoints" / "last.ckpt").read_bytes()
    local = train("task=myopia", "mixer=myopic_frozen", f"task.frozen={vanilla.folder}", *SHORT)
    assert results(local)["test/loss"] != measured["test/loss"]
    assert (vanilla.folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert Losses.read(local.folder).targets == kept.targets
    with pytest.raises(ValueError, match="frozen model"):  # alone it has no past to attend to
        load_run(local.folder).model(torch.zeros(1, 4, dtype=torch.long))

    for arguments, line in (
        (
            ("model.width=32", f"task.frozen={vanilla.folder}"),
            "is of another shape (head_dim is 32 there, 16 here)",
        ),
        (
            ("task.frozen=vanilla", "model.dropout=0.1"),
            "differs in model.dropout (0.1 against 0.0)",
        ),
    ):
        refused = train("task=myopia", "mixer=myopic_frozen", *arguments, *SHORT)
        assert refused.code == 2 and line in refused.err, refused.err
        (error,) = [text for text in refused.err.splitlines() if text.startswith("error: ")]
        assert "frozen" in error
    model = load_run(local.folder).model
    assert isinstance(model, Decoder)
    for source, line in (
        (None, "give task.frozen=RUN_FOLDER"),
        ("nowhere", "nowhere does not exist"),
        (str(tmp_path), "not found; give the folder of a run"),
    ):
        with pytest.raises((UserError, FileNotFoundError), match=line):
            frozen_model(model, source, local.folder)
    (vanilla.folder / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"task.frozen: .*best.ckpt: not found"):
        frozen_model(model, str(vanilla.folder), local.folder)


def test_precaching_run_leaves_probes_and_controls(train) -> None:
    """R^2 says nothing without the untrained network beside it: both are there, and the pictures."""
    run = train(
        *("task=myopia_precaching", "model=regressor", "mixer=myopic", "data=precaching"),
        *("data.window=2", "data.eval_samples=64", "max_steps=3", "model.context_length=8"),
        data=False,
    )
    found = results(run)
    assert found["test/normalised_loss"] == pytest.approx(found["test/loss"])
    for split in ("test", "control"):
        for layer in range(3):
            assert found[f"{split}/r2_window_sum@layer{layer}"] <= 1
    table = json.loads((run.folder / "probes.json").read_text())
    assert len(table["trained"]) == len(table["untrained"]) == 3
    assert table["lags"] == [0, 1, 2, 3, 4]
    for name in ("probes", "neurons"):
        assert (run.folder / "plots" / f"{name}.png").stat().st_size > 5000
    wrong = train("task=myopia_precaching", "max_steps=1")
    assert wrong.code == 2 and "use model=regressor" in wrong.err


def test_multiplication_run_counts_exact_answers(train) -> None:
    """Exact match is greedy decoding's: the model's own answers, digit by digit, agree with it."""
    run = train(
        *("task=myopia_multiplication", "data=multiplication", "data.digits=1"),
        *("model.context_length=5", "data.eval_samples=100", "max_steps=60", "model.num_layers=1"),
        *("data.batch_size=64", "optim.lr=1e-2", "validate_every=60"),
        data=False,
    )
    found = results(run)
    table = json.loads((run.folder / "exact_match.json").read_text())
    assert table["1x1"]["count"] == 100
    assert table["1x1"]["share"] == found["test/exact_match"] == found["test/exact_match@1x1"]
    model = load_run(run.folder).model
    data = MultiplicationData(context_length=5, batch_size=1, digits=1)
    batch = data.draw("test", np.arange(100))
    text, answers = batch["tokens_BT"][:, :4], batch["targets_BT"][:, -2:]
    with torch.no_grad():
        for _ in range(2):
            text = torch.cat((text, model(text)[:, -1:].argmax(-1)), 1)
    right = (text[:, 4:] == answers).all(-1)
    assert 0 < right.sum() < 100
    assert float(right.double().mean()) == pytest.approx(found["test/exact_match"])
