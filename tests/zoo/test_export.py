"""Exported models work in a process that has transformers and not this project."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_conf import composed

from tasks import run_folder
from tasks.data.bpe import BPE
from tasks.data.tokenizers import Bytes
from zoo import export
from zoo.generate import generate
from zoo.load import Run, build

# What is exported -> (choices, whether transformers has a class of its own for it)
VARIANTS = {
    "gpt2": (["model=gpt2"], "GPT2LMHeadModel"),
    "rope": (["model=rope", "model.mixer.num_kv_heads=1"], "GPTNeoXForCausalLM"),
    "llama": (
        [
            "model=rope",
            "model.norm._target_=zoo.norms.RMSNorm",
            "model.mlp._target_=zoo.mlp.SwiGLU",
        ],
        "LlamaForCausalLM",
    ),
    "lex": (["model=xpos"], "ZooForCausalLM"),
    "window": (["model=rope", "mask=sliding_window", "model.mask.window=9"], "ZooForCausalLM"),
    "momentum": (["model=alibi", "mixer=momentum"], "ZooForCausalLM"),
    "alibi": (["model=alibi"], "ZooForCausalLM"),
    "fire": (["model=fire"], "ZooForCausalLM"),
}
MORE = {
    "myopic": (["model=rope", "mixer=myopic"], "GPTNeoXForCausalLM"),
    "smeared": (["model=rope", "mixer=smeared"], "ZooForCausalLM"),
    **{
        name: ([f"model={name}"], "ZooForCausalLM")
        for name in ("nope", "sinusoidal", "t5", "kerple", "sandwich")
    },
}
PROMPT = "def f(x):\n    return "
NEW = 24


def untrained(choices: list[str], folder: Path) -> Run:
    """A run as `load_run` returns it, the weights as they start."""
    overrides = [*choices, "size=nano", "model.context_length=16", "model.num_layers=2"]
    if "model=gpt2" in choices:
        overrides.append("model.position.max_length=80")
    config = run_folder.plain(composed(*overrides))
    config["model"]["vocab_size"] = 256
    torch.manual_seed(0)
    return Run(folder, config, build(config["model"], key="model").eval(), Bytes())


def written(model: torch.nn.Module) -> list[int]:
    """What the zoo's own decoding makes of the prompt, always the likeliest token."""
    prompt = torch.tensor([list(PROMPT.encode())])
    steps = generate(model, prompt, max_new_tokens=NEW, temperature=0)
    return [int(token) for token in steps]


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> dict[str, dict]:
    return taken_outside(VARIANTS, tmp_path_factory.mktemp("exports"))


def taken_outside(variants: dict, root: Path) -> dict[str, dict]:
    """Every variant exported, and what a process without this project says of each folder."""
    expected = {}
    for name, (choices, _) in variants.items():
        run = untrained(choices, root)
        export.write(run, root / name)
        prompt = torch.tensor([list(PROMPT.encode())])
        with torch.no_grad():
            expected[name] = {"logits": run.model(prompt), "tokens": written(run.model)}
    torch.save(expected, root / "expected.pt")
    (root / "prompt.json").write_text(json.dumps(PROMPT))
    script = Path(__file__).with_name("outside.py").read_text()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(root / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *variants],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((root / "report.json").read_text())


def check(said: dict, architecture: str) -> None:
    assert said["class"] == architecture
    assert said["difference"] < 1e-5, "logits"
    assert said["generated"], "generate() writes what zoo.generate writes"
    assert said["uncached"], "with its cache as without"
    assert said["loss"], "labels give the mean next-token loss"
    assert said["text"].startswith(PROMPT), "pipeline"
    assert said["rows"], "rows of several lengths are generated as if alone"
    assert said["tied"] and said["beams"] and said["trains"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_export_is_the_model(outside, name):
    check(outside[name], VARIANTS[name][1])


@pytest.mark.slow
def test_the_export_of_every_other_variant_is_the_model(tmp_path):
    for name, said in taken_outside(MORE, tmp_path).items():
        check(said, MORE[name][1])


def test_the_cache_of_lex_stays_bounded(outside):
    """Two blocks of half the training length are all that a later token can see."""
    token = 2 * 2 * 64 * 4  # keys and values, layers, width, bytes
    assert outside["lex"]["size"] <= 16 * token and outside["lex"]["read"] > 40
    assert outside["window"]["size"] <= 9 * token
    assert outside["alibi"]["size"] == outside["alibi"]["read"] * token


TEXTS = ["", "def f(x):\n\treturn  x\n", "ÿ naïve 🦜 \u200b<|endoftext|>ĠÃ", "\r\n \x00\x7f"]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_the_tokenizer_is_the_zoo_s(kind, tmp_path):
    from transformers import AutoTokenizer

    ours = Bytes() if kind == "bytes" else BPE(vocab_size=300).train([Path(__file__).read_text()])
    ours.to_transformers().save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text).tolist(), text
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(ours.vocab_size) for _ in range(draw.randrange(12))]
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), ids
    assert theirs.eos_token_id == ours.eos and len(theirs) == ours.vocab_size


def test_command_writes_a_card_with_the_results(train, tmp_path, capfd):
    run = train("model=xpos", "max_steps=2")
    folder = tmp_path / "exported"
    assert export.main([str(run.folder), str(folder)]) == 0
    assert "trust_remote_code=True" in capfd.readouterr().out
    results = json.loads((run.folder / "results.json").read_text())
    page = (folder / "README.md").read_text()
    assert page.startswith("---\n") and f"{results['test/loss']:.4f}" in page
    assert "python train.py model=xpos" in page and "XPos" in page
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert export.main([str(run.folder), str(folder)]) == 2, "nothing is overwritten"
    assert "not empty" in capfd.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert export.main([str(tmp_path), str(tmp_path / "other")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and "config.yaml" in err and err.count("\n") == 1


def test_the_project_is_not_named_in_what_is_exported(tmp_path):
    """An import of the project would only work where it is installed."""
    export.write(untrained(["model=xpos", "mixer=momentum"], tmp_path), tmp_path / "out")
    for path in (tmp_path / "out").glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.lstrip().startswith(
                ("from zoo", "import zoo", "from kernels", "import kernels", "from tasks")
            ), f"{path.name}: {line}"
    assert str(ROOT) not in (tmp_path / "out" / "config.json").read_text()


def test_a_variant_from_beside_the_project_travels_too(tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text(
        "import torch\nfrom zoo.positions.base import Position\n\n\nclass Steps(Position):\n"
        "    def slopes(self):\n        return 0.5 * torch.arange(1, self.num_heads + 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = run_folder.plain(composed("model=alibi", "size=nano"))
    config["model"] |= {"vocab_size": 256}
    config["model"]["position"] = {"_target_": "steps.Steps", "_partial_": True}
    run = Run(tmp_path, config, build(config["model"]).eval(), Bytes())
    export.write(run, tmp_path / "out")
    assert "from .zoo_positions_base import Position" in (tmp_path / "out" / "steps.py").read_text()
    sys.modules.pop("steps")
