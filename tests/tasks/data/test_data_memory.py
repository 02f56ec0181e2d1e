"""A corpus of any size in bounded memory: measured as the peak resident size of a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

BUILD = """
import json, resource, sys
from pathlib import Path
from tasks.data.documents import prepare_documents
from tasks.data.files import Text
from tasks.data.tokenizers import Bytes
from tasks.data.tokens import prepare_tokens

def peak():
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

def build(path, cache):
    documents = prepare_documents(Text(path=path), cache)
    rows = documents.split(val_fraction=0.05, test_fraction=0.05)
    folder = prepare_tokens(Bytes(), documents, rows, key={}, cache=cache)
    return (folder / "train.arrow").stat().st_size

folder = Path(sys.argv[1])
build(str(folder / "small.txt"), folder / "small")
before = peak()
tokens = build(str(folder / "large.txt"), folder / "large")
print(json.dumps([tokens, peak() - before]))
"""


@pytest.mark.parametrize(
    "megabytes", [32, pytest.param(256, marks=pytest.mark.slow)], ids=lambda m: f"{m} MB"
)
def test_growth_does_not_follow_the_corpus(tmp_path, megabytes):
    """A 2 GB text file must not need 2 GB. The bound is the same for both sizes: what the largest
    batch of documents needs in its several forms, and the windows that are mapped at a time."""
    (tmp_path / "small.txt").write_text("".join(f"Line {i}.\n\n" for i in range(3000)))
    with (tmp_path / "large.txt").open("w") as file:
        written = 0
        while written < megabytes << 20:
            numbers = range(written, written + 10_000)
            written += file.write(
                "".join(f"{i:012x} some words of a line {i % 977:x}\n\n" for i in numbers)
            )
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    size, growth = json.loads(run.stdout)
    assert size > 0.8 * written, "what was built is the whole corpus"
    assert growth < 100, f"grew by {growth:.0f} MB"
