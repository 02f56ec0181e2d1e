"""What the scorer brings with it must not harm the run that scores."""

import subprocess
import sys

SCRIPT = """
import io, logging.config, sys
sys.stderr = of_the_run = io.StringIO()
from tasks.rouge import rouge_l
assert abs(rouge_l("the cats sat", "the cat sat") - 1) < 1e-9
sys.stderr = sys.__stderr__
logging.config.dictConfig({"version": 1})
assert not of_the_run.closed
"""


def test_scoring_closes_no_stream_of_others():
    """Otherwise whoever had put a stream of its own there could say nothing after Hydra's next run."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
