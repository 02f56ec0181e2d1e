"""The kernels' page: what it shows runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "kernels" / "README.md").read_text()


def test_its_snippets_run():
    """A reader copies them first."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "kernels/README.md", "exec"), {})


def test_its_command_runs_and_its_files_exist():
    """A command or a file that is not there sends the reader away."""
    command = re.search(r"python -m (kernels\.bench)", PAGE)
    assert command
    help_text = subprocess.run(
        [sys.executable, "-m", command[1], "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "--out" in help_text
    for path in re.findall(r"`((?:kernels|tests)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path.replace("NAME", "attention")).exists(), path
