"""Run folders written by hand to the contract, and a real browser to read the page with."""

import csv
import json
import math
import random
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import yaml


def write_run(
    folder: Path,
    *,
    model="gpt2",
    seed=0,
    results=None,
    status="finished",
    error=None,
    config=None,
    choices=None,
    rows=None,
    series=None,
    plots=0,
    extra=None,
) -> Path:
    """A whole run folder; pass `None`-able parts as False to leave that file out."""
    folder.mkdir(parents=True)
    if config is not False:
        tree = {
            "name": f"{model}-s{seed}",
            "seed": seed,
            "model": {"_target_": f"zoo.positions.{model}.{model.title()}", "context_length": 256},
            "task": {"name": "lm"},
            "data": {"name": "stdlib", "seed": seed},
            "optim": {"lr": 0.001},
            "paths": {"output_dir": str(folder)},
            "trainer": {"max_steps": 1000, "default_root_dir": str(folder)},
            **(config or {}),
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    if status is not False:
        told = {
            "status": status,
            "error": error,
            "command": f"python train.py model={model} task=lm seed={seed}",
            "choices": {"model": model, "task": "lm", "data": "stdlib", **(choices or {})},
            "overrides": [f"model={model}", "task=lm", f"seed={seed}"],
            "host": {"cpu": "Example CPU 9000", "cores": 2, "gpu": None},
            "versions": {"python": "3.11.2", "torch": "2.13.0"},
            "started": "2026-01-05T10:00:00",
            "finished": "2026-01-05T10:02:05",
            **(extra or {}),
        }
        (folder / "status.json").write_text(json.dumps(told))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if rows is not None:
        write_metrics(folder / "metrics.csv", rows)
    if series is not None:
        (folder / "series.json").write_text(json.dumps(series))
    for index in range(plots):
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / f"plot{index}.png").write_bytes(png())
    return folder


def write_metrics(path: Path, rows: list[dict]) -> None:
    """A wide metrics.csv: every column of any row, empty where a row has none."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def png(width=8, height=6) -> bytes:
    """A small grey picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def learning_rows(floor: float, seed: int, steps=300, every=10) -> list[dict]:
    """A loss that falls from 5.5 to `floor`, with noise; validation every fifth row."""
    noise = random.Random(seed)
    rows = []
    for step in range(every, steps + 1, every):
        loss = floor + (5.5 - floor) * math.exp(-step / 60)
        row = {"step": step, "tokens": step * 4096, "seconds": step * (0.11 + 0.01 * seed)}
        rows.append(row | {"train/loss": loss + noise.gauss(0, 0.05)})
        if step % (5 * every) == 0:
            rows.append(row | {"val/loss": loss + 0.05 + noise.gauss(0, 0.01)})
    return rows


# How perplexity grows beyond the training length of 256, by scheme, without and with blockwise masks.
GROWTH = {
    "gpt2": (1.9, 1.9),
    "rope": (0.9, 0.04),
    "alibi": (-0.03, 0.02),
    "xpos": (0.12, -0.05),
    "nope": (0.5, 0.3),
}


def lex_results(model: str, seed: int) -> tuple[dict, dict]:
    """Results and series in the manner of the extrapolation task."""
    noise = random.Random(f"{model}{seed}")
    offset = 0.03 * list(GROWTH).index(model) if model in GROWTH else 0.2 * noise.random()
    growth = GROWTH.get(model, (0.4 * noise.random(), 0.1 * noise.random()))
    loss = 1.42 - offset + noise.gauss(0, 0.006)
    results = {
        "test/loss": loss,
        "test/bits_per_byte": loss / math.log(2),
        "baseline/unigram_bits_per_byte": 4.5213,
        "baseline/xz_bits_per_byte": 1.9034,
        "params": 1_204_224 + 256 * 128 * (model == "gpt2"),
        "tokens_per_s": 20_300 * (1 - offset) + noise.gauss(0, 120),
        "status": "finished",
    }
    lengths, curves = [64, 128, 256, 512, 1024, 2048, 4096], {"": [], "+bca": []}
    for rest, slope in zip(curves, growth):
        for length in lengths:
            beyond = max(0.0, math.log2(length / 256))
            short = 0.12 * max(0.0, math.log2(256 / length))
            level = loss + short + slope * beyond + noise.gauss(0, 0.01)
            curves[rest].append(math.exp(level))
            results[f"test/ppl@{length}{rest}"] = curves[rest][-1]
    positions = list(range(0, 1024, 8))
    series = {
        "Loss by position in the segment": {
            "x": positions,
            "y": [
                loss
                + 2.2 / math.sqrt(p + 1)
                + growth[0] * max(0, p - 256) / 900
                + noise.gauss(0, 0.02)
                for p in positions
            ],
            "xlabel": "position",
            "ylabel": "loss, nats per token",
            "xscale": "linear",
            "yscale": "linear",
            "kind": "line",
        }
    }
    return results, series


@pytest.fixture
def run_folder():
    """The writer of run folders."""
    return write_run


@pytest.fixture
def sweep(tmp_path):
    """`sweep(models, seeds)` writes a sweep of whole runs in the manner of the extrapolation task."""

    def build(models=("gpt2", "rope", "xpos"), seeds=(0, 1, 2), name="sweep") -> Path:
        folder = tmp_path / name
        jobs = [(model, seed) for model in models for seed in seeds]
        for index, (model, seed) in enumerate(jobs):
            results, series = lex_results(model, seed)
            write_run(
                folder / str(index),
                model=model,
                seed=seed,
                results=results,
                rows=learning_rows(results["test/loss"], seed),
                series=series,
                plots=1,
            )
        return folder

    return build


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium with a profile of its own that records the console and every request."""
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    window.set_script_timeout(10)
    yield window
    window.quit()
