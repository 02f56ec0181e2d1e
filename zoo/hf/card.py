"""The model card of an exported run: what it is, how it is loaded, what was measured."""

import json
from pathlib import Path
from typing import Any

from zoo.decoder import Decoder
from zoo.load import Run


def card(run: Run, architecture: str, *, tokenizer: bool) -> str:
    """README.md with the front matter that the Hub reads. tokenizer: whether the folder holds one."""
    model = run.model
    assert isinstance(model, Decoder)
    results, status = (_json(run.folder / f"{name}.json") for name in ("results", "status"))
    remote = architecture.startswith("Zoo")
    trust = ", trust_remote_code=True" if remote else ""
    parts = {
        "positions": model.position,
        "mixer": getattr(model.blocks[0], "mixer", None),
        "MLP": getattr(model.blocks[0], "mlp", None),
        "norm": model.norm,
    }
    shape = {
        "layers": len(model.blocks),
        "width": model.width,
        "heads": model.position.num_heads,
        "vocabulary": model.vocab_size,
        "trained at": f"{model.context_length} tokens",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        **{name: type(part).__name__ for name, part in parts.items() if part is not None},
        "mask": _mask(run.config["model"]),
    }
    name = str(run.config.get("name", "model"))
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [transformer-zoo]",
        "---",
        "",
        f"# {name}",
        "",
        f"A decoder trained with the transformer zoo, loaded as `{architecture}`.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})',
    ]
    if tokenizer:
        lines += [
            f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})',
            'tokens = tokenizer("def ", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**tokens, max_new_tokens=50)[0]))",
        ]
    lines += ["```", ""]
    if remote:
        lines += [
            "`trust_remote_code` runs the modelling files of this folder, which are the zoo's own; they "
            "need transformers 5 and torch.",
            "",
        ]
    if model.max_length is not None:
        lines += [f"It reads at most {model.max_length} tokens.", ""]
    lines += _table("part", shape)
    measured = {
        key: f"{value:.4f}"
        for key, value in sorted(results.items())
        if key.split("/")[0] in ("val", "test", "baseline") and isinstance(value, int | float)
    }
    if measured:
        lines += ["## Results", ""]
        lines += ["Losses in nats per token.", ""]
        lines += _table("quantity", measured)
    lines += ["## Training", ""]
    if status.get("command"):
        lines += ["```bash", status["command"], "```", ""]
    kept = ("tokens", "steps", "train_seconds", "precision", "seed")
    lines += _table("training", {k: results[k] for k in kept if k in results})
    lines += _table("with", status.get("versions") or {})
    return "\n".join(lines)


def _mask(node: dict[str, Any]) -> str:
    """The mask's name, and its numbers where it has any."""
    mask = node.get("mask") or {}
    name = str(mask.get("_target_", "causal")).rpartition(".")[2]
    given = {k: v for k, v in mask.items() if not k.startswith("_") and v is not None}
    return name + "".join(f", {key} {value}" for key, value in given.items())


def _table(heading: str, rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    return [f"| {heading} | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items()), ""]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
