"""A sweep of periods from the command to the report, at nano size."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from period_runs import sweep

from tasks.environment import hardware
from tasks.errors import UserError
from tasks.time_vectors import analyses, options
from tasks.time_vectors.adapters import Adapter
from tasks.time_vectors.analyse import analyse, claims
from tasks.time_vectors.analyse import main as analyse_main
from tasks.time_vectors.arithmetic import combine
from tasks.time_vectors.base import find_base
from tasks.time_vectors.downstream import main as downstream_main
from tasks.time_vectors.labelled import Judge
from tasks.time_vectors.online import online
from tasks.time_vectors.study import Study, find_studies
from tasks.time_vectors.tables import tables, verdict
from tasks.time_vectors.template import prompt
from zoo.load import load_run

SMALL = (
    "task=time_vectors",
    "data=dated_synthetic",
    "data.corpus.first_year=2010",
    "data.corpus.last_year=2013",
    "data.corpus.documents_per_month=20",
    "data.corpus.topics=4",
    "data.max_eval_tokens=400",
    "data.batch_size=8",
    "max_steps=8",
    "model.context_length=32",
    "model.width=32",
    "optim.lr=3e-3",
    "callbacks.loss_plot=null",
)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> tuple[Path, Path]:
    """Language models of four years with every control, and from their base a classifier of two."""
    root = tmp_path_factory.mktemp("sweeps")
    lm, task = root / "runs" / "lm", root / "runs" / "task"
    every = ["base", "p1", "p2", "p3", "p4", "all", "s1", "s2", "o1", "o2"]
    sweep(root, lm, every, *SMALL)
    template = "{text} => {section}"
    sweep(root, task, ["p1", "p2"], *SMALL, f"task.base={lm}", template=template)
    return lm, task


def test_a_sweep_becomes_a_report_and_nothing_is_measured_twice(sweeps, capfd):
    folder, _ = sweeps
    for part in ("1/2", "2/2"):
        assert analyse_main([str(folder), "--shard", part]) == 0
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == 16, "4 models, 4 periods"
    assert analyse_main([str(folder)]) == 0
    page = (folder / "time_vectors.html").read_text()
    assert page.count("data:image/png") >= 14
    found = json.loads((folder / "time_vectors.json").read_text())["seeds"][0]
    assert found["labels"] == ["2010", "2011", "2012", "2013"]
    assert np.array(found["grid"]["scores"]).shape == (4, 4)
    assert found["interpolation"]["end_error"] <= 1e-6
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines)
    assert "time_vectors.html" in capfd.readouterr().out
    analyse(find_studies(folder)[0])
    assert (folder / "evaluations.jsonl").read_text().splitlines() == lines

    # A half-written line of a killed process costs that one evaluation.
    (folder / "evaluations.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    (study,) = find_studies(folder)
    assert len(study.cache.known) == len(lines) - 1

    # A form written in place is the file that `combine` writes.
    runs = study.runs
    study.set({"2010": 0.3, "2013": 0.7})
    there = folder.parents[1] / "mixed"
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


def test_controls_of_a_sweep_are_what_they_are_called(sweeps):
    """A chain that began at the base each time, or dates that were not shuffled, would look the same."""
    (study,) = find_studies(sweeps[0])
    assert study.online == ["online-2010", "online-2011"]
    assert torch.equal(study.theta("online-2010"), study.theta("2010")), "the same text and start"
    assert not torch.equal(study.theta("online-2011"), study.theta("2011"))
    told = online(study)
    assert told["labels"] == ["2010", "2011"]
    assert told["cosines"][0, 0] == pytest.approx(1) and told["cosines"].shape == (2, 2)
    own = told["compared"]["each from the base"]["own"]
    alone = [study.losses({p: 1.0})[i] for i, p in enumerate(("2010", "2011"))]
    assert own == pytest.approx(np.mean(alone))
    assert told["compared"]["one after the other"]["next"] == pytest.approx(study.losses({"2010": 1.0})[1])  # fmt: skip

    found = analyses.floor(study)
    a, b = (study.vector(x).double() for x in study.shuffled)
    assert study.shuffled == ["shuffled-1", "shuffled-2"]
    assert found["shuffled"] == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    assert found["neighbours"] == pytest.approx(np.diag(study.cosines(), 1).mean())


def test_january_and_december_are_mixed_on_every_month_of_their_year(sweeps, tmp_path):
    """Months, each by its own test text; the runs are the years' models, which is as good here."""
    (study,) = find_studies(sweeps[0])
    runs = {"base": study.runs["base"]}
    for name, source in (("a", "2010"), ("b", "2013")):
        folder = tmp_path / name
        shutil.copytree(study.runs[source], folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"] |= {"by": "month", "test_fraction": 0.3, "max_eval_tokens": 40}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    runs |= {f"2010-{month:02d}": tmp_path / ("a" if month < 12 else "b") for month in range(1, 13)}
    months = Study(runs, tmp_path / "evaluations.jsonl")
    found = analyses.calendar(months)
    assert list(found) == ["2010"], "of the other years there is no model of each month"
    year = found["2010"]
    assert year["losses"].shape == (11, 12)
    for alpha, label in ((10, "2010-01"), (0, "2010-12")):
        ends = months.losses({label: 1.0})
        assert year["losses"][alpha] == pytest.approx(ends, abs=1e-6)
    mixed = months.losses({"2010-01": 0.3, "2010-12": 0.7}, "val")
    assert year["best"].shape == (12,) and len({*year["best"]} - {*analyses.ALPHAS}) == 0
    for month in range(12):
        months.set(
            {"2010-01": float(year["best"][month]), "2010-12": float(1 - year["best"][month])}
        )
        assert months.loss(months.labels[month], "val") <= mixed[month]


def test_a_task_moves_to_another_period_by_analogy(sweeps, capfd):
    lm, task = sweeps
    assert downstream_main([str(lm), str(task)]) == 0
    assert (task / "analogy.png").read_bytes().startswith(b"\x89PNG")
    before = (task / "evaluations.jsonl").read_text()
    (study,), (models,) = find_studies(task), find_studies(lm)
    whole = analyse(study, quick=True, lm=models)
    after = (task / "evaluations.jsonl").read_text()
    assert after.startswith(before) and " half " not in after[len(before) :], "measured once"
    titles = [title for title, _ in tables(claims([whole]), [whole])]
    count = min(len(models.data.documents_of(p, "test")) for p in ("2010", "2011"))
    assert f"Macro-F1 of the likeliest label x 100, {count} test documents a period" in titles
    assert whole["task"][0]["documents"][0] == len(models.data.documents_of("2010", "test"))
    assert (
        "Analogy: the task of 2010 on later periods, Macro-F1 of the likeliest label x 100"
        in titles
    )
    said = capfd.readouterr().out
    assert "Macro-F1" in said and "2013" in said and "analogy" in said
    found = json.loads((task / "analogy.json").read_text())["seeds"][0]
    kinds = ("as it is", "scaled alone", "random direction", "analogy")
    for target in ("2011", "2012", "2013"):
        row = found[target]
        assert all(0 <= row[kind] <= 1 for kind in kinds) and len(row["coefficients"]) == 3
    assert 0 <= found["2011"]["tuned on the target"] <= 1

    judge = Judge(study)
    assert judge.labels == ["home", "sport", "trade", "world"]
    examples = judge.examples("2010", "test")
    assert {answer for _, answer in examples} <= set(judge.labels)
    assert all(text.endswith(" => ") for text, _ in examples)
    # The matrix has a row a trained period.
    study.set({"2011": 1.0})
    assert whole["task"][0]["scores"][1][0] == pytest.approx(100 * judge.score(examples))
    # What the labels' likelihoods say is what the model says when asked one by one.
    study.set({"2010": 1.0})
    text = examples[0][0]
    before = len(study.data.tokenizer.encode(text))
    scores = {}
    for label in judge.labels:
        ids = torch.as_tensor(study.data.tokenizer.encode(text + label)).long()[-33:]
        answer = len(study.data.tokenizer.encode(text + label)) - before
        logs = torch.log_softmax(study.model(ids[None, :-1]), -1)[0].detach()
        scores[label] = float(logs[range(len(ids) - 1), ids[1:]][-answer:].sum())
    assert judge.classify([text]) == [max(scores, key=scores.__getitem__)]

    judge.labels = None  # many different answers: they are written, not chosen
    assert 0 <= judge.score(examples[:2]) <= 1
    document = study.data.documents_of("2010", "test")[0]
    with pytest.raises(UserError, match="has no colour"):
        prompt("{text} {colour}", document)

    # No text that the language models are tested on was the task's to train on.
    for period in ("2010", "2011"):
        tested = {d.text for d in models.data.documents_of(period, "test")}
        assert tested == {d.text for d in study.data.documents_of(period, "test")}
        assert not tested & {d.text for d in study.data.documents_of(period, "train")}
    assert models.data.tokenizer.fingerprint == study.data.tokenizer.fingerprint


def test_lora_leaves_an_adapter_that_says_what_changed(train, sweeps):
    base = sweeps[0] / "base"
    lora = "+task.lora={_target_: tasks.time_vectors.lora.LoRA, rank: 2, alpha: 8}"
    tuned = train(*SMALL, "data.period=p2", f"task.base={base}", lora.lstrip("+"), data=False)
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
    longer = [s for s in SMALL if not s.startswith("max_steps")]
    again = train(*longer, f"ckpt={tuned.folder}", "max_steps=9", "data.period=p2",
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
def test_what_cannot_start_is_said_in_a_line(train, sweeps, overrides, line):
    overrides = [o.replace("BASE", str(sweeps[0] / "base")) for o in overrides]
    small = [s for s in SMALL if s.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    refused = train(*small, *overrides, data=False)
    assert refused.code == 2 and line in refused.err


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
