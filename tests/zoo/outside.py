"""Run by test_export.py in a process that cannot import this project: what transformers makes of folders."""

import importlib.util
import json
import sys
from pathlib import Path

# An editable install of the project is a path or a finder: without both it is not there.
sys.path = [place for place in sys.path if not Path(place, "zoo", "decoder.py").exists()]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline  # noqa: E402

assert all(importlib.util.find_spec(name) is None for name in ("zoo", "kernels", "tasks"))
torch.set_num_threads(1)
expected = torch.load("expected.pt", weights_only=True)
prompt = json.loads(Path("prompt.json").read_text())
report = {}
for name in sys.argv[1:]:
    folder = f"./{name}"
    config = json.loads(Path(folder, "config.json").read_text())
    trust = {"trust_remote_code": True} if "auto_map" in config else {}
    model = AutoModelForCausalLM.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    tokens = tokenizer(prompt, return_tensors="pt")
    ids = tokens["input_ids"]
    greedy = dict(do_sample=False, eos_token_id=None)
    want = expected[name]
    with torch.no_grad():
        logits = model(**tokens).logits
        loss = model(**tokens, labels=ids).loss
        out = model.generate(
            **tokens,
            **greedy,
            max_new_tokens=len(want["tokens"]),
            return_dict_in_generate=True,
        )
        uncached = model.generate(**tokens, **greedy, max_new_tokens=6, use_cache=False)
        beams = model.generate(**tokens, max_new_tokens=4, num_beams=2, eos_token_id=None)
        texts = [prompt, prompt[:7], prompt[:11]]
        rows = tokenizer(texts, return_tensors="pt", padding=True)
        together = model.generate(**rows, **greedy, max_new_tokens=16)
        batch = [row[-16:].tolist() for row in together]
        alone = [
            model.generate(**tokenizer(text, return_tensors="pt"), **greedy, max_new_tokens=16)
            for text in texts
        ]
        alone = [row[0, -16:].tolist() for row in alone]
    model(**rows, labels=rows["input_ids"]).loss.backward()
    by_hand = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    cache = out.past_key_values
    ours = type(cache).__name__ == "ZooCache"
    report[name] = {
        "class": type(model).__name__,
        "difference": float((logits - want["logits"]).abs().max()),
        "generated": out.sequences[0, ids.shape[1] :].tolist() == want["tokens"],
        "uncached": bool((uncached[0] == out.sequences[0, : uncached.shape[1]]).all()),
        "beams": beams.shape[1] == ids.shape[1] + 4,
        "loss": bool((loss - by_hand).abs() < 1e-5),
        "rows": batch == alone,
        "trains": all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()),
        "size": cache.size if ours else None,
        "read": cache.get_seq_length(),
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "text": pipeline("text-generation", model=model, tokenizer=tokenizer)(
            prompt, max_new_tokens=4
        )[0]["generated_text"],
    }
Path("report.json").write_text(json.dumps(report, default=bool))
