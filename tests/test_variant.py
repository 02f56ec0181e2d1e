"""The rule that makes it a zoo: a variant is one Python file and one YAML file, and nothing else."""

import json
import sys

PYTHON = '''
"""Every head looks back a little less far than the one before, by a fixed step."""

import torch

from zoo.positions.base import Position


class Steps(Position):
    def __init__(self, *, step: float = 0.5, **model):
        super().__init__(**model)
        self.step = step

    def slopes(self):
        return self.step * torch.arange(1, self.num_heads + 1)
'''

CONFIG = """
defaults: [decoder, _self_]
position:
  _target_: steps.Steps
  _partial_: true
  step: 0.25
"""


def test_a_new_variant_is_one_file_and_one_config(train, tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text(PYTHON)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "steps.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = train("--config-dir", str(tmp_path / "conf"), "model=steps", "max_steps=4")
    assert run.code == 0, run.err
    results = json.loads((run.folder / "results.json").read_text())
    assert results["test/loss"] > 0 and results["steps"] == 4
    from zoo.load import load_run

    assert load_run(run.folder).model.position.step == 0.25
    sys.modules.pop("steps")
