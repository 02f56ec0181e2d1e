"""The house stands as it was drawn: arrows run one way, and nothing imports what it must not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "kernels": {"zoo", "tasks", "lightning", "hydra", "train"},
    "zoo": {"tasks", "lightning", "hydra", "datasets", "train"},
    "tasks": {"train", "tests"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_run_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        wrong = imports(path) & (FORBIDDEN[room] | {"pytorch_lightning"})
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_kernels_package_is_a_docstring():
    """transformers takes a package of this name for its own; it must find nothing in it."""
    body = ast.parse((ROOT / "kernels" / "__init__.py").read_text()).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


def test_no_variant_is_named_in_the_trainer():
    text = (ROOT / "train.py").read_text() + (ROOT / "zoo" / "decoder.py").read_text()
    for variant in (p.stem for p in (ROOT / "conf" / "model").glob("*.yaml")):
        if variant != "decoder":
            assert f'"{variant}"' not in text and f"'{variant}'" not in text


def test_everything_imports_without_triton():
    """A Mac or a plain CPU has no triton: reading and training a model must not need it."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import train, tasks.run, zoo.generate, zoo.bench, kernels.attention.op\n"
        "import kernels.xpos.op, kernels.cross_entropy.op"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_transformers_lives_with_our_kernels_package():
    """With the project first on the path, transformers still builds its models."""
    code = (
        "import torch, transformers as t\n"
        "g = t.GPT2LMHeadModel(t.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))\n"
        "g(torch.zeros(1, 3, dtype=torch.long))\n"
        "m = t.T5ForConditionalGeneration(t.T5Config(num_layers=1, d_model=8, d_kv=4, d_ff=8,\n"
        "    num_heads=2, vocab_size=16, decoder_start_token_id=0))\n"
        "i = torch.zeros(1, 3, dtype=torch.long); m(input_ids=i, labels=i)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
