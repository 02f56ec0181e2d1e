"""Runs, Hugging Face folders, tied weights and adapters as inputs of weight arithmetic."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.time_vectors.adapters import Adapter
from tasks.time_vectors.arithmetic import combine, diff, main
from tasks.time_vectors.cosine import cosine
from zoo.load import load_run


def test_runs_combine_into_a_folder_that_loads_as_a_run(train, tmp_path):
    runs = [train("model=rope", f"seed={seed}", "max_steps=2").folder for seed in (0, 1)]
    base, other = (load_run(folder) for folder in runs)
    combine(runs[0], [(0.25, runs[1])], tmp_path / "mixed")
    mixed = load_run(tmp_path / "mixed")
    for name, value in mixed.model.state_dict().items():
        b, m = (run.model.state_dict()[name] for run in (base, other))
        torch.testing.assert_close(value, b + 0.25 * (m - b))
    assert mixed.model.head.weight is mixed.model.embedding.weight
    held = load_file(tmp_path / "mixed" / "model.safetensors")
    assert "head.weight" not in held, "tied weights are written once"
    assert list(mixed.tokenizer.encode("ab")) == list(base.tokenizer.encode("ab"))
    combine(tmp_path / "mixed", [(1, runs[1])], tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert torch.equal(again["embedding.weight"], other.model.embedding.weight)


@pytest.mark.parametrize("gated", [False, True], ids=["v1.0", "v1.1"])
def test_t5_goes_through_diff_and_combine(tmp_path, gated):
    import transformers as t

    config = t.T5Config(
        num_layers=2,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_heads=4,
        vocab_size=40,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
    )
    models = {}
    for seed, name in enumerate("bcd"):
        torch.manual_seed(seed)
        models[name] = t.T5ForConditionalGeneration(config)
        models[name].save_pretrained(tmp_path / name, max_shard_size="20KB" if gated else "1GB")
    b, c, d = (str(tmp_path / name) for name in "bcd")
    diff(b, c, tmp_path / "tau.safetensors")
    combine(b, [(0.6, tmp_path / "tau.safetensors"), (-0.3, d)], tmp_path / "o")
    loaded, info = t.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "o", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    states = {name: model.state_dict() for name, model in models.items()}
    for name, value in loaded.state_dict().items():
        x, y, z = (states[k][name] for k in "bcd")
        torch.testing.assert_close(value, x + 0.6 * (y - x) - 0.3 * (z - x), atol=1e-6, rtol=1e-6)
    tokens = torch.tensor([[3, 4, 5]])
    assert loaded(input_ids=tokens, labels=tokens).loss.isfinite()
    tied = models["b"].lm_head.weight is models["b"].shared.weight
    assert (loaded.lm_head.weight is loaded.shared.weight) is tied


def test_tied_here_and_apart_there_is_refused(tmp_path, capsys):
    shared = torch.ones(3, 2)
    torch.save({"in": shared, "out": shared}, tmp_path / "tied.pt")
    torch.save({"in": shared, "out": shared.clone()}, tmp_path / "apart.pt")
    arguments = ["--base", str(tmp_path / "tied.pt"), f"--term=1={tmp_path / 'apart.pt'}"]
    assert main(["combine", *arguments, "--output", str(tmp_path / "o.safetensors")]) == 2
    assert "holds in and out apart" in capsys.readouterr().err


def test_a_torch_file_runs_no_code(tmp_path):
    """A checkpoint is a pickle; one that names a command must only be read."""

    class Command:
        def __reduce__(self):
            return (__import__("os").mkdir, (str(tmp_path / "ran"),))

    torch.save({"w": torch.arange(4.0), "evil": Command()}, tmp_path / "c.pt")
    save_file({"w": torch.zeros(4)}, tmp_path / "b.safetensors")
    combine(tmp_path / "b.safetensors", [(2, tmp_path / "c.pt")], tmp_path / "o.safetensors")
    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [0, 2, 4, 6]
    assert not (tmp_path / "ran").exists()


def adapter(folder, seed: int, rank: int, alpha: float, **settings) -> dict[str, torch.Tensor]:
    """Saves a LoRA adapter as PEFT does; returns the changes that it makes."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"enc.q": (12, 10), "enc.v": (12, 10)} if seed else {"enc.q": (12, 10)}
    content, deltas = {}, {}
    for module, (rows, columns) in shapes.items():
        A = torch.randn(rank, columns, generator=draw)
        B = torch.randn(rows, rank, generator=draw)
        content[f"base_model.model.{module}.lora_A.weight"] = A
        content[f"base_model.model.{module}.lora_B.weight"] = B
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        deltas[f"{module}.weight"] = scale * (B @ A)
    folder.mkdir()
    save_file(content, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return deltas


@pytest.fixture
def adapters(tmp_path):
    base = {"enc.q.weight": torch.randn(12, 10), "enc.v.weight": torch.randn(12, 10)}
    save_file({**base, "norm": torch.ones(3)}, tmp_path / "b.safetensors")
    one = adapter(tmp_path / "one", 1, 2, 8.0)
    two = adapter(tmp_path / "two", 0, 3, 6.0, use_rslora=True)
    return tmp_path, base, one, two


def test_adapters_stay_factored_and_their_sum_is_exact(adapters):
    folder, base, one, two = adapters
    terms = [(0.5, folder / "one"), (-2.0, folder / "two")]
    combine(folder / "b.safetensors", terms, folder / "sum")
    combine(folder / "b.safetensors", terms, folder / "merged.safetensors", merge=True)
    summed = Adapter(folder / "sum")
    assert summed.factors["enc.q.weight"].A.shape == (5, 10), "the ranks add up"
    assert summed.config["rank_pattern"] == {"enc.v": 2}
    merged = load_file(folder / "merged.safetensors")
    for name in base:
        wanted = 0.5 * one[name] - 2 * two.get(name, torch.zeros(()))
        left, right = summed.matrices(name)
        torch.testing.assert_close(torch.from_numpy(left @ right), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(merged[name], base[name] + wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(merged["norm"], torch.ones(3))


def test_cosines_of_adapters_are_those_of_what_they_change(adapters):
    folder, _, one, two = adapters
    for name in ("one", "two"):
        combine(folder / "b.safetensors", [(1, folder / name)], folder / f"{name}.st", merge=True)
    names = [str(folder / n) for n in ("one", "two")]
    factored = cosine(folder / "b.safetensors", names)
    whole = cosine(folder / "b.safetensors", [f"{name}.st" for name in names])
    dot = (one["enc.q.weight"] * two["enc.q.weight"]).sum()
    norms = [torch.cat([d.flatten() for d in x.values()]).norm() for x in (one, two)]
    assert factored.matrix()[0, 1] == pytest.approx(float(dot / norms[0] / norms[1]), abs=1e-5)
    assert whole.matrix() == pytest.approx(factored.matrix(), abs=1e-5)
    assert whole.matrix("norm")[0, 1] != whole.matrix("norm")[0, 1], "untouched: no direction"


def test_an_adapter_that_does_not_fit_is_refused(adapters, capsys):
    folder = adapters[0]
    save_file({"enc.q.weight": torch.zeros(12, 11)}, folder / "other.safetensors")
    arguments = ["--base", str(folder / "other.safetensors"), f"--term=1={folder / 'two'}"]
    assert main(["combine", *arguments, "--output", str(folder / "o")]) == 2
    assert "changes enc.q.weight of shape [12, 10]" in capsys.readouterr().err


def test_cosines_are_those_of_the_flattened_differences(tmp_path, capsys):
    draw = torch.Generator().manual_seed(0)
    names = {"embedding.weight": (5, 4), "blocks.0.mlp.expand.weight": (300, 500), "norm": (4,)}
    models = [{n: torch.randn(*s, generator=draw) for n, s in names.items()} for _ in range(4)]
    files = []
    for i, model in enumerate(models):
        files.append(str(tmp_path / f"{i}.safetensors"))
        save_file(model, files[-1])
    taus = [{n: (m[n] - models[0][n]).double() for n in names} for m in models[1:]]
    found = cosine(files[0], files[1:])
    for group, members in {
        "all": list(names),
        "feed-forward": ["blocks.0.mlp.expand.weight"],
    }.items():
        flat = torch.stack([torch.cat([tau[n].flatten() for n in members]) for tau in taus])
        flat = flat / flat.norm(dim=1, keepdim=True)
        assert found.matrix(group) == pytest.approx((flat @ flat.T).numpy(), abs=1e-10)
    out = tmp_path / "cosines.json"
    assert main(["cosine", "--base", *files, "--output", str(out)]) == 0
    assert json.loads(out.read_text())["cosine"]["all"][0][1] == pytest.approx(found.matrix()[0, 1])
    assert "feed-forward" in capsys.readouterr().out
