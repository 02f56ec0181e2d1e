"""What the sweep says about the published orderings, from made-up runs whose answer is known."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import yaml

from tasks.extrapolation.orderings import judge, main, orderings, to_markdown
from tasks.extrapolation.picture import _apart
from tasks.extrapolation.sweep import read_sweep

LENGTHS = (32, 64, 128, 256, 512)
# Perplexity at LENGTHS, without and with BCA, as the paper has it.
PAPER = {
    "learned": ((11, 10, 15, 25, 40), (11, 10, 14, 20, 30)),
    "sinusoidal": ((11, 10, 16, 26, 41), (11, 10, 15, 21, 31)),
    "rope": ((9, 8, 9, 14, 20), (9, 8, 7.9, 7.9, 7.9)),
    "alibi": ((9, 8, 7.8, 7.7, 7.7), (9, 8, 7.9, 7.9, 7.9)),
    "xpos": ((9, 8, 7.8, 8.2, 9), (9, 8, 7.7, 7.6, 7.5)),
}
TITLES = ("absolute", "RoPE", "xPos + BCA", "xPos alone", "ALiBi")


def sweep_of(folder: Path, rows=PAPER, *, seeds: int = 3, noise: float = 0.0005) -> Path:
    draw = random.Random(0)
    shutil.rmtree(folder, ignore_errors=True)
    for number, (name, seed) in enumerate((n, s) for n in rows for s in range(seeds)):
        run = folder / str(number)
        run.mkdir(parents=True)
        level = math.exp(0.05 * seed)  # pairing must take it out
        results = {"test/translation_change": 2.0 if name == "learned" else 1e-6}
        for suffix, values in zip(("", "+bca"), rows[name], strict=True):
            for length, value in zip(LENGTHS, values, strict=True):
                shaken = value * level * math.exp(draw.gauss(0, noise))
                results[f"test/ppl@{length}{suffix}"] = shaken
            worst = max(results[f"test/ppl@{n}{suffix}"] for n in LENGTHS[2:])
            ratio = worst / results[f"test/ppl@64{suffix}"]
            results["test/ppl_ratio" + suffix.replace("+", "@")] = ratio
        (run / "results.json").write_text(json.dumps(results))
        config = {"seed": seed, "model": {"context_length": 64, "position": name}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        status = {"status": "finished", "choices": {"model": name}, "overrides": [f"seed={seed}"]}
        (run / "status.json").write_text(json.dumps(status))
    return folder


def verdicts(folder: Path) -> dict[str, str]:
    found = orderings(read_sweep(folder))
    return {
        start: o.verdict
        for start, o in zip(TITLES, found, strict=True)
        if o.title.startswith(start)
    }


def test_the_papers_numbers_hold(tmp_path):
    assert verdicts(sweep_of(tmp_path)) == dict.fromkeys(TITLES, "held")


@pytest.mark.parametrize(
    ("title", "name", "full", "bca"),
    [
        ("absolute", "learned", (11, 10, 10, 10, 10), None),
        ("RoPE", "rope", (9, 8, 8, 8.4, 9.2), None),
        ("RoPE", "rope", None, (9, 8, 8, 8.2, 9)),
        ("xPos + BCA", "xpos", None, (9, 8, 7.7, 7.9, 8.3)),
        ("xPos alone", "xpos", (9, 8, 9, 20, 40), None),
        ("xPos alone", "xpos", (9, 8, 7.7, 7.5, 7.3), None),
        ("ALiBi", "alibi", None, (9, 8, 7.5, 7.2, 7.0)),
    ],
)
def test_each_ordering_can_fail(tmp_path, title, name, full, bca):
    """And fails alone: a verdict that could not be lost would be worth nothing."""
    rows = PAPER | {name: (full or PAPER[name][0], bca or PAPER[name][1])}
    found = verdicts(sweep_of(tmp_path, rows))
    assert found.pop(title) == "did not hold"
    assert set(found.values()) == {"held"}


def test_a_mean_without_its_interval_is_not_enough(tmp_path):
    found = verdicts(sweep_of(tmp_path, noise=0.03))
    assert set(found.values()) <= {"held", "held on average", "did not hold"}
    assert "held on average" in found.values()
    one = verdicts(sweep_of(tmp_path, seeds=1))
    assert set(one.values()) == {"held on average"}, "one seed has no interval"


def test_what_was_not_run_is_not_measured(tmp_path):
    rows = {name: PAPER[name] for name in ("rope", "xpos")}
    found = verdicts(sweep_of(tmp_path, rows))
    assert found["absolute"] == found["ALiBi"] == "not measured"
    assert found["RoPE"] == found["xPos + BCA"] == "held"


def test_judging_writes_the_tables_and_the_picture(tmp_path, capsys):
    assert main([str(sweep_of(tmp_path))]) == 0
    assert (tmp_path / "extrapolation.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "orderings.md").read_text()
    assert "| RoPE breaks without BCA and survives with it | **held** |" in text
    assert "| rope 256 / 64 | 1.7" in text and "| 11.5 | held |" in text
    assert "| learned | no | 2 | no | 4" in text and "| alibi | yes | 1e-06 | yes | 0.9" in text
    out = capsys.readouterr().out
    assert out.count("held  ") == 5 and str(tmp_path / "extrapolation.png") in out


def test_a_scheme_of_ones_own_is_drawn_too(tmp_path):
    found = judge(sweep_of(tmp_path, PAPER | {"mine": PAPER["rope"]}))
    assert "mine + BCA" in to_markdown(read_sweep(tmp_path), found)


def test_folders_without_such_runs_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    folder = sweep_of(tmp_path / "other", {"rope": PAPER["rope"]}, seeds=1)
    (folder / "0" / "results.json").write_text('{"test/loss": 1.0}')
    assert main([str(folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no such folder" in lines[0] and "no finished run of task=extrapolation" in lines[1]
    assert len(lines) == 2


def test_labels_are_moved_apart_and_no_further():
    assert _apart([0.0, 5.0, 9.0], 1.0, 0.0, 10.0) == [0.0, 5.0, 9.0]
    assert _apart([4.0, 4.0, 4.0], 1.0, 0.0, 10.0) == pytest.approx([3.0, 4.0, 5.0])
    crowded = _apart([9.8, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert crowded == pytest.approx([8.0, 9.0, 10.0]), "and stay inside"
