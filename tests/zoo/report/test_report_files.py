"""The three files: complete, whole or absent, safe to open, and quick to make."""

import csv
import json
import math
import re
import subprocess
import sys

import pytest

from zoo.report import compare, plots
from zoo.report.__main__ import main
from zoo.report.curves import learning_figures, task_figures
from zoo.report.runs import find_runs
from zoo.report.variants import group

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='pwned=1'>"


def read_csv(path):
    with path.open(newline="") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def figures_of(folder):
    variants = group(find_runs([folder]))
    return variants, learning_figures(variants), task_figures(variants)


def test_the_csv_has_means_intervals_and_differences_in_full_precision(run_folder, tmp_path):
    for seed, (a, b) in enumerate([(1.25, 2.5), (1.5, 3.0), (1.75, 3.5)]):
        run_folder(tmp_path / f"{seed}", model="gpt2", seed=seed, results={"test/loss": a})
        run_folder(tmp_path / f"{seed + 3}", model="xpos", seed=seed, results={"test/loss": b})
    run_folder(tmp_path / "6", model="xpos", seed=3, status="failed", error="boom")
    written = compare([tmp_path])
    assert sorted(written) == ["csv", "html", "md"]
    row = read_csv(written["csv"])["xpos"]
    assert (row["baseline"], row["runs"], row["finished"], row["seeds"]) == (
        "gpt2",
        "4",
        "3",
        "0 1 2",
    )
    assert (float(row["test/loss"]), row["test/loss:n"]) == (3.0, "3")
    assert float(row["test/loss:ci95"]) == pytest.approx(4.302652730 * 0.5 / math.sqrt(3), rel=1e-9)
    # Differences 1.25, 1.5, 1.75.
    assert float(row["test/loss:diff"]) == 1.5
    assert float(row["test/loss:diff_ci95"]) == pytest.approx(
        4.302652730 * 0.25 / math.sqrt(3), rel=1e-9
    )
    text = written["md"].read_text()
    assert "| gpt2 | 3 | **1.5** ± 0.6 |" in text
    assert "| xpos | 3 of 4 | +1.50 ± 0.62 |" in text
    assert "| 6 | xpos | failed | boom |" in text


def test_missing_columns_and_nan_are_shown_not_guessed(run_folder, tmp_path):
    run_folder(tmp_path / "0", model="gpt2", seed=0, results={"test/loss": 1.0, "test/extra": 5.0})
    run_folder(tmp_path / "1", model="gpt2", seed=1, results={"test/loss": math.nan})
    run_folder(tmp_path / "2", model="xpos", seed=0, results={"test/loss": math.inf})
    written = compare([tmp_path])
    rows = read_csv(written["csv"])
    assert (rows["gpt2"]["test/loss"], rows["gpt2"]["test/loss:n"]) == ("1.0", "1")
    assert (rows["gpt2"]["test/extra"], rows["xpos"]["test/extra"]) == ("5.0", "")
    text = written["md"].read_text()
    assert "(1 not finite)" in text and "| xpos | 1 | not finite | — |" in text


def test_every_failed_killed_and_unfinished_run_is_listed(run_folder, tmp_path):
    run_folder(tmp_path / "0", results={"test/loss": 1.0})
    run_folder(
        tmp_path / "1", model="t5", status="failed", error="ValueError: num_heads=0: set it above 0"
    )
    run_folder(
        tmp_path / "2",
        model="t5",
        seed=1,
        status="interrupted",
        rows=[{"step": 40, "train/loss": 2}],
    )
    run_folder(tmp_path / "3", model="t5", seed=2, status=False)
    (tmp_path / "4").mkdir()
    html = compare([tmp_path])["html"].read_text()
    assert "4 of 5 runs, not counted above" in html
    assert "ValueError: num_heads=0: set it above 0" in html
    for status in ("failed", "interrupted", "unfinished"):
        assert f'">{status}</td>' in html
    assert "run 4" in html


def test_a_sweep_in_which_nothing_finished_still_gets_its_report(run_folder, tmp_path):
    run_folder(tmp_path / "0", status="failed", error="boom")
    html = compare([tmp_path])["html"].read_text()
    assert "No finished run has a metric" in html and "boom" in html


def test_nothing_from_a_run_becomes_markup(run_folder, tmp_path):
    run_folder(
        tmp_path / "0",
        model=HOSTILE,
        seed=HOSTILE,
        status="failed",
        error=HOSTILE,
        config={"optim": {HOSTILE: HOSTILE}},
        choices={"task": HOSTILE},
        rows=[{"step": 1, HOSTILE: 1.0}],
        extra={"command": HOSTILE, "host": {HOSTILE: HOSTILE}, "versions": {"a": HOSTILE}},
    )
    series = {HOSTILE: {"x": [1, 2], "y": [1, 2], "xlabel": HOSTILE, "ylabel": HOSTILE}}
    run_folder(tmp_path / "1", model="gpt2", results={f"test/{HOSTILE}": 1.0}, series=series)
    html = compare([tmp_path])["html"].read_text()
    assert "window.pwned" in html  # it is there, as text
    assert "<script>window.pwned" not in html and "<img src=x" not in html
    assert html.count("</script>") == 2  # the data's and the page's own


def test_the_page_refers_to_nothing_outside_itself(sweep):
    html = compare([sweep()])["html"].read_text()
    assert set(re.findall(r"https?://[^\"'` ]+", html)) == {"http://www.w3.org/2000/svg"}
    links = re.findall(r"(?:src|href|action)=\"([^\"]*)\"", html)
    assert links and all(link.startswith("data:") for link in links)
    assert "default-src 'none'" in html


def test_plots_are_embedded_within_bounds_first_seeds_first(sweep, monkeypatch, tmp_path):
    folder = sweep(models=("gpt2", "xpos"), seeds=(0, 1))
    (folder / "0" / "plots" / "fake.png").write_text("<svg onload=alert(1)>")
    size = (folder / "0" / "plots" / "plot0.png").stat().st_size
    monkeypatch.setattr(plots, "MAX_PLOTS_BYTES", 2 * size)
    html = compare([folder])["html"].read_text()
    shown = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', html)
    assert shown == ["0/plots/plot0.png", "2/plots/plot0.png"]
    left_out = re.search(r"Not embedded, [^:]*: ([^<]*)\.</p>", html)
    assert left_out and set(left_out.group(1).split(", ")) == {
        "0/plots/fake.png",
        "1/plots/plot0.png",
        "3/plots/plot0.png",
    }


def test_curves_are_means_over_seeds_with_bands(run_folder, tmp_path):
    for seed, offset in enumerate((0.0, 1.0)):
        rows = [
            {"step": s, "tokens": 10 * s, "seconds": s + offset, "val/loss": s + offset}
            for s in (1, 2, 3)
        ]
        run_folder(tmp_path / str(seed), seed=seed, rows=rows)
    _, (figure,), _ = figures_of(tmp_path)
    (line,) = figure.lines
    assert line.x == {"step": [1, 2, 3], "tokens": [10, 20, 30], "seconds": [1.5, 2.5, 3.5]}
    assert line.y == [1.5, 2.5, 3.5]
    # Two values 1 apart: 12.706 · (1/√2)/√2.
    assert line.half == pytest.approx([12.7062047364 / 2] * 3, rel=1e-9)


def test_seeds_that_logged_other_steps_are_interpolated_where_all_have_values(run_folder, tmp_path):
    for seed, steps in enumerate(([0, 10, 20, 30], [5, 15, 25])):
        run_folder(
            tmp_path / str(seed), seed=seed, rows=[{"step": s, "val/loss": 2.0 * s} for s in steps]
        )
    _, (figure,), _ = figures_of(tmp_path)
    assert figure.lines[0].x["step"] == [5, 15, 25]
    assert figure.lines[0].y == [10, 30, 50]


def test_a_diverged_curve_has_a_gap_and_long_logs_are_thinned(run_folder, tmp_path):
    rows = [{"step": s, "train/loss": math.nan if s > 5000 else 1.0} for s in range(10_000)]
    run_folder(tmp_path / "0", rows=rows)
    _, (figure,), _ = figures_of(tmp_path)
    assert len(figure.lines[0].y) <= 200
    assert figure.lines[0].y[0] == 1.0 and math.isnan(figure.lines[0].y[-1])


def test_unfinished_variants_are_drawn_as_such(run_folder, tmp_path):
    run_folder(tmp_path / "0", model="gpt2", rows=[{"step": 1, "val/loss": 1.0}])
    run_folder(tmp_path / "1", model="t5", status="failed", rows=[{"step": 1, "val/loss": 2.0}])
    _, (figure,), _ = figures_of(tmp_path)
    assert [line.whole for line in figure.lines] == [True, False]


def test_task_series_overlay_and_bad_ones_are_noted(run_folder, tmp_path):
    good = {"x": [256, 512], "y": [3.0, None], "xscale": "log", "yscale": "odd", "xlabel": "length"}
    run_folder(
        tmp_path / "0", model="gpt2", series={"Perplexity": good, "bad": {"x": [1], "y": ["a"]}}
    )
    run_folder(tmp_path / "1", model="xpos", series={"Perplexity": {**good, "y": [2.0, 2.5]}})
    variants, _, (figure,) = figures_of(tmp_path)
    assert (figure.xscale, figure.yscale, figure.xlabel) == ("log", "linear", "length")
    assert [line.y[0] for line in figure.lines] == [3.0, 2.0] and math.isnan(figure.lines[0].y[1])
    assert "'bad'" in variants[0].runs[0].problems[0]


def test_metrics_under_numbered_conditions_become_a_figure(run_folder, tmp_path):
    results = {f"test/ppl@{n}{rest}": n / 100 for n in (256, 512, 1024) for rest in ("", "+bca")}
    run_folder(tmp_path / "0", model="gpt2", results=results)
    series = {"Mine": {"x": [256, 512, 1024], "y": [2.56, 5.12, 10.24]}}
    _, _, figures = figures_of(tmp_path)
    assert [f.title for f in figures] == [
        "test/ppl by condition (@…)",
        "test/ppl by condition (@…+bca)",
    ]
    assert figures[0].lines[0].x["x"] == [256, 512, 1024] and figures[0].xscale == "log"
    (tmp_path / "0" / "series.json").write_text(json.dumps(series))
    assert [f.title for f in figures_of(tmp_path)[2]] == ["Mine"]  # shown once, the task's way


def test_what_differs_machines_and_commands_are_on_the_page(sweep, run_folder):
    folder = sweep(models=("gpt2", "xpos"), seeds=(0,))
    run_folder(
        folder / "9", model="rope", extra={"host": {"cpu": "Other CPU"}}, results={"test/loss": 1.0}
    )
    html = compare([folder])["html"].read_text()
    assert "model._target_" in html and "zoo.positions.xpos.Xpos" in html
    assert "optim.lr" not in html
    assert "2 runs:" in html and "cpu Other CPU" in html and "torch 2.13.0" in html
    assert "python train.py model=xpos task=lm seed=0" in html
    assert "The runs come from different machines" in html


def test_the_command_line(sweep, tmp_path, capsys):
    folder = sweep(models=("gpt2", "xpos"), seeds=(0, 1))
    assert main([str(folder), "--output", str(tmp_path / "out"), "--baseline", "xpos"]) == 0
    assert (tmp_path / "out" / "comparison.html").is_file()
    assert not (folder / "comparison.html").exists()
    assert read_csv(tmp_path / "out" / "comparison.csv")["gpt2"]["baseline"] == "xpos"
    assert main([str(folder), "--baseline", "nobody"]) == 2
    assert main([str(tmp_path / "none")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "nobody" in errors[0] and "no such folder" in errors[1]


def test_a_report_is_rewritten_and_never_read_as_a_run(sweep):
    folder = sweep(models=("gpt2",), seeds=(0,))
    first = compare([folder])["html"].read_text()
    assert compare([folder])["html"].read_text() == first
    assert not list(folder.glob(".comparison*"))


def test_it_loads_neither_torch_nor_the_frameworks():
    """It runs at the end of every sweep and on machines that only look at results."""
    heavy = ["torch", "lightning", "hydra", "omegaconf", "matplotlib", "transformers"]
    check = f"import sys, zoo.report.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sweep_named_by_the_time_gets_a_heading_that_says_what_it_is(sweep, run_folder, tmp_path):
    folder = sweep(models=("gpt2", "xpos"), seeds=(0,), name="2026-01-05/10-00-00-123456")
    html = compare([folder])["html"].read_text()
    assert "<h1>lm on stdlib</h1>" in html and "2026-01-05/10-00-00-123456" in html
    assert (
        "<h1>mine</h1>"
        in compare([sweep(models=("gpt2",), seeds=(0,), name="mine")])["html"].read_text()
    )
    run_folder(tmp_path / "1" / "0", choices={"experiment": "lex"})
    assert "<h1>lex</h1>" in compare([tmp_path / "1"])["html"].read_text()
