"""Every Triton kernel against its float64 reference, without a GPU: see triton_cases.py.

What a GPU user would get wrong: any mask, position scheme, head grouping or gradient. Bounds are what
the precision allows, 16 roundings in float32 and 4 in float16 of the largest value; nothing is retried.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton_cases

pytest.importorskip("triton")
HERE = Path(__file__).parent
BOUND = {"float32": 16 * 2**-23, "float16": 4 * 2**-10}


@pytest.fixture(scope="module")
def results():
    run = subprocess.run(
        [sys.executable, HERE / "triton_cases.py"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", triton_cases.CASES)
def test_against_float64(case, results):
    errors = results[case]
    assert not isinstance(errors, str), errors
    bound = (
        0.0 if case in triton_cases.EXACT else BOUND["float16" if "float16" in case else "float32"]
    )
    assert errors and max(errors) <= bound, errors
