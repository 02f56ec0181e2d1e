"""What the README says there is, is there; its commands and snippets are executed by test_commands.py."""

import re
from pathlib import Path

import yaml
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()


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
