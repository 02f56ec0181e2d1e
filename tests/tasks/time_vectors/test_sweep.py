"""A sweep of periods from the command to the report, at nano size."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT

from tasks.environment import hardware
from tasks.errors import UserError
from tasks.time_vectors import analyses, options
from tasks.time_vectors.adapters import Adapter
from tasks.time_vectors.analyse import main
from tasks.time_vectors.arithmetic import combine
from tasks.time_vectors.base import find_base
from tasks.time_vectors.report import verdict
from tasks.time_vectors.study import find_studies
from zoo.load import load_run

SMALL = (
    "task=time_vectors",
    "data=dated_synthetic",
    "data.corpus.first_year=2010",
    "data.corpus.last_year=2013",
    "data.corpus.documents_per_month=20",
    "data.max_eval_tokens=600",
    "data.batch_size=8",
    "model.context_length=32",
    "model.width=32",
    "optim.lr=3e-3",
    "callbacks.loss_plot=null",
)


@pytest.fixture
def sweep(train, tmp_path):
    """Base, four years and all, one seed."""
    periods = "data.period=base,p1,p2,p3,p4,all"
    outcome = train("-m", *SMALL, periods, "max_steps=12", data=False)
    assert outcome.code == 0, outcome.err
    return next((tmp_path / "runs" / "sweeps").glob("*/*"))


def test_a_sweep_becomes_a_report_and_nothing_is_measured_twice(sweep, capfd):
    for part in ("1/2", "2/2"):
        assert main([str(sweep), "--shard", part]) == 0
    assert len((sweep / "evaluations.jsonl").read_text().splitlines()) == 16, "4 models, 4 periods"
    assert main([str(sweep)]) == 0
    page = (sweep / "time_vectors.html").read_text()
    assert page.count("data:image/png") >= 8
    found = json.loads((sweep / "time_vectors.json").read_text())["seeds"][0]
    assert found["labels"] == ["2010", "2011", "2012", "2013"]
    assert np.array(found["grid"]["scores"]).shape == (4, 4)
    assert found["interpolation"]["end_error"] <= 1e-6
    lines = (sweep / "evaluations.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines)
    assert main([str(sweep)]) == 0
    assert (sweep / "evaluations.jsonl").read_text().splitlines() == lines
    assert "time_vectors.html" in capfd.readouterr().out

    # A half-written line of a killed process costs that one evaluation.
    (sweep / "evaluations.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    (study,) = find_studies(sweep)
    assert len(study.cache.known) == len(lines) - 1

    # A form written in place is the file that `combine` writes.
    runs = study.runs
    study.set({"2010": 0.3, "2013": 0.7})
    there = sweep.parent / "mixed"
    combine(runs["base"], [(0.3, runs["2010"]), (0.7, runs["2013"])], there)
    for name, value in load_run(there).model.named_parameters():
        place = study.flat[study.places[name]].view_as(value)
        torch.testing.assert_close(place, value.detach(), atol=1e-7, rtol=1e-6)

    # Swapping every kind of parameter is the other model.
    study.set({"2013": 1.0})
    for places in study.groups().values():
        for place in places:
            study.flat[place] = study.base[place] + study.vector("2010")[place]
    assert study.loss("2010") == pytest.approx(study.losses({"2010": 1.0})[0], abs=1e-6)
    soup = analyses.soups(study)
    assert sum(soup["greedy weights"].values()) == pytest.approx(1)

    # What one model alone would do is what routing between copies of it does.
    logs = torch.log_softmax(torch.randn(3, 2, 5), 0)
    assert torch.allclose(options.gate(logs[:1].repeat(4, 1, 1), 0.9).exp(), torch.tensor(0.25))
    gates = options.gate(logs, 1.0)
    assert torch.allclose(gates.exp().sum(0), torch.ones(2, 5))
    assert torch.allclose(gates[:, :, 2], torch.log_softmax(logs[:, :, :2].sum(2), 0), atol=1e-6)


def test_lora_leaves_an_adapter_that_says_what_changed(train):
    base = train(*SMALL, "data.period=base", "max_steps=2", data=False).folder
    lora = "+task.lora={_target_: tasks.time_vectors.lora.LoRA, rank: 2, alpha: 8}"
    tuned = train(
        *SMALL, "data.period=p2", f"task.base={base}", "max_steps=4", lora.lstrip("+"), data=False
    )
    assert tuned.code == 0, tuned.err
    before, after = (
        load_run(f, checkpoint="last").model.state_dict() for f in (base, tuned.folder)
    )
    adapter = Adapter(tuned.folder / "adapter")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(adapter.factors) == {f"blocks.{i}.mixer.qkv.weight" for i in range(2)}
    for name in changed:
        left, right = adapter.matrices(name)
        torch.testing.assert_close(
            after[name] - before[name], torch.from_numpy(left @ right), atol=1e-6, rtol=1e-4
        )
    again = train(*SMALL, f"ckpt={tuned.folder}", "max_steps=6", "data.period=p2",
                  f"task.base={base}", lora.lstrip("+"), data=False)  # fmt: skip
    assert again.code == 0, again.err
    assert torch.equal(
        load_run(tuned.folder).model.state_dict()["embedding.weight"], before["embedding.weight"]
    )


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.period=p1", "task.base=nowhere"], "task.base: nowhere has no run with"),
        (["data.period=p9"], "data.period: p9 is not one of"),
        (["data.period=p1", "task.base=BASE", "model.width=64"], "holds another model"),
    ],
)
def test_what_cannot_start_is_said_in_a_line(train, tmp_path, overrides, line):
    if "task.base=BASE" in overrides:
        base = train(*SMALL, "data.period=base", "max_steps=1", data=False).folder
        overrides = [o.replace("BASE", str(base)) for o in overrides]
    small = [s for s in SMALL if s.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    run = train(*small, *overrides, "max_steps=1", data=False)
    assert run.code == 2 and line in run.err


def test_a_base_is_waited_for_while_it_is_going_and_no_longer(tmp_path):
    """Runs of a sweep may go side by side, and be killed."""
    run = tmp_path / "0"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 3\ndata: {period: base}\n")
    going = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    threading.Thread(target=going.wait).start()  # so that it is gone when it has ended
    status = {"status": "running", "process": going.pid, "host": hardware()}
    (run / "status.json").write_text(json.dumps(status))
    with pytest.raises(UserError, match="did not finish"):
        find_base(tmp_path, 3)  # a process that ends without saying so was killed
    assert going.poll() is not None
    (run / "status.json").write_text(json.dumps(status | {"status": "finished"}))
    assert find_base(tmp_path, 3) == run == find_base(run, 99)
    with pytest.raises(UserError, match=r"no run with data\.period=p1 and seed=3"):
        find_base(tmp_path, 3, "p1")


def test_verdicts_need_the_whole_interval():
    claim = {"limit": -0.5, "above": False}
    assert verdict(claim | {"values": [-0.8, -0.81, -0.79]}) == "held"
    assert verdict(claim | {"values": [-0.9, -0.4, -0.6]}) == "held on average"
    assert verdict(claim | {"values": [-0.4, -0.41]}) == "did not hold"


@pytest.mark.parametrize("name", ["time_vectors", "time_vectors_seasonal"])
def test_experiments_sweep_what_they_say(name):
    content = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    params = yaml.safe_load(content.partition("\n")[2])["hydra"]["sweeper"]["params"]
    assert len(str(params["seed"]).split(",")) >= 3
    assert str(params["data.period"]).startswith("base,p1")
