"""Every snippet of the README is executed: the commands at nano size, the Python as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_conf import composed

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("python train.py")
]
# These need another machine, a network, or an earlier run, and have tests of their own: here they
# must compose.
ELSEWHERE = (
    "data=hub",
    "trainer=gpu",
    "sweep.resume",
    "ckpt=",
    "trainer=fsdp",
    "hydra/launcher=",
    "--cfg",
    "pretrained=",
    "hydra.run.dir=",
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_trains(train, corpus, command):
    arguments = command[2:]
    if any(word in argument for argument in arguments for word in ELSEWHERE):
        choices = [a.split(",")[0] for a in arguments if "=" in a]
        assert composed(*choices).model.position._target_
        return
    replaced = {
        "data.path=my_folder": f"data.path={corpus}",
        "data.path=notes/**/*.md": f"data.path={corpus}/**/*.txt",
        "tokenizer.vocab_size=2048": "tokenizer.vocab_size=300",
        "max_minutes=2": "max_minutes=0.01",
    }
    run = train(*[replaced.get(a, a) for a in arguments], "max_steps=2")
    assert run.code == 0, run.err


def test_generation_and_python_of_the_readme_work_on_a_run(train):
    run = train("model=xpos", "max_steps=2")
    line = next(line for line in TEXT.splitlines() if line.startswith("python -m zoo.generate"))
    arguments = shlex.split(line.replace("RUN_FOLDER", str(run.folder)))[1:]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def ") and len(done.stdout) > len("def \n")
    code = next(block for language, block in BLOCKS if "load_run(" in block)
    scope: dict = {}
    exec(code.replace("RUN_FOLDER", str(run.folder)), scope)
    assert scope["logits_BTV"].shape[:2] == (1, 7)


def test_a_run_goes_to_transformers_in_the_readme_s_lines(train, tmp_path, capfd):
    """From train.py to .generate() by copying."""
    from zoo import evaluate, export

    line = next(line for line in TEXT.splitlines() if "hydra.run.dir=my_run" in line)
    folder, exported = tmp_path / "runs" / "my_run", tmp_path / "my_model"
    chosen = [a.replace("my_run", str(folder)) for a in shlex.split(line)[2:]]
    assert train(*chosen, "max_steps=2").code == 0
    line = next(line for line in TEXT.splitlines() if line.startswith("python -m zoo.export"))
    assert shlex.split(line)[3:] == ["my_run", "my_model"]
    assert export.main([str(folder), str(exported)]) == 0
    code = next(block for language, block in BLOCKS if "AutoModelForCausalLM" in block)
    exec(code.replace("my_model", str(exported)), {})
    assert len(capfd.readouterr().out.splitlines()[-1]) > 0
    line = next(line for line in TEXT.splitlines() if line.startswith("python -m zoo.evaluate"))
    with pytest.raises(SystemExit):  # its arguments are understood; the tasks need a network
        evaluate.main([*shlex.split(line)[3:], "--help"])


def test_choices_of_the_table_exist_and_every_choice_is_on_a_page():
    """Who reads the pages knows what there is; what the table names is there."""
    pages = TEXT + "".join(p.read_text() for p in (ROOT / "tasks").rglob("README.md"))
    for group in ("model", "size", "mixer", "mask", "data", "tokenizer", "trainer", "logger"):
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{group}="))
        named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        there = {p.stem for p in (ROOT / "conf" / group).glob("*.yaml")} - {"decoder"}
        assert named <= there, f"{group}: {named - there} are not in conf/{group}"
        for choice in there - named:
            assert re.search(rf"\b{choice}\b", pages), f"{group}={choice} is on no page"
    for experiment in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert re.search(rf"\b{experiment.stem}\b", pages), f"{experiment.stem} is on no page"


def test_citation_and_licence_are_readable():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "MIT" and "MIT" in Path(ROOT / "LICENSE").read_text()
