"""`pretrained=…` starts a run from a checkpoint: its shape, its weights, its tokenizer."""

import json

import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zoo.hf import load_pretrained
from zoo.load import load_run


@pytest.fixture
def checkpoint(tmp_path, corpus):
    """A GPT-2 of its own odd shape, with a tokenizer learnt from the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train([str(path) for path in corpus.glob("*.txt")], trainer)
    folder = tmp_path / "checkpoint"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=304, n_positions=96, n_embd=24, n_layer=3, n_head=3)
    config.bos_token_id = config.eos_token_id = 0
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_run_starts_from_the_checkpoint_with_its_own_mixer_and_goes_on(train, checkpoint):
    arguments = ("model=gpt2", f"pretrained={checkpoint}", "task=lm", "optim.lr=1e-9")
    arguments += ("mixer=myopic",)
    run = train(*arguments, "max_steps=2")
    assert run.code == 0, run.err
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert (config["model"]["num_layers"], config["model"]["width"]) == (3, 24)
    assert config["model"]["vocab_size"] == 304 and config["model"]["dropout"] == 0.0
    loaded = load_run(run.folder)
    assert loaded.tokenizer.vocab_size == 300, "the checkpoint's tokenizer"
    assert type(loaded.model.blocks[0].mixer).__name__ == "MyopicAttention", "the run's mixer"
    # At so small a rate the weights are those of the checkpoint but for rounding.
    start = load_pretrained(checkpoint).state_dict()
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, start[name], rtol=0, atol=1e-6)
    again = train(*arguments, "max_steps=4", "ckpt=last")
    assert again.code == 0, again.err
    assert json.loads((run.folder / "results.json").read_text())["steps"] == 4


@pytest.mark.parametrize("myopic", ["hidden", "kv"])
def test_myopic_changes_gradients_and_not_logits(checkpoint, myopic):
    plain, other = (
        load_pretrained(checkpoint, dtype=torch.float64, myopic=m) for m in (None, myopic)
    )
    tokens = torch.randint(300, (2, 20))
    logits = [model(tokens) for model in (plain, other)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)
    for x in logits:
        x.logsumexp(-1).sum().backward()
    ours, theirs = (m.blocks[0].mixer.qkv.weight.grad for m in (plain, other))
    assert (ours - theirs).abs().max() > 1e-3 * ours.abs().max()


def test_what_is_wrong_with_a_checkpoint_is_one_line(train, checkpoint, tmp_path):
    cases = {
        "no such folder": [f"pretrained={tmp_path.name}-nowhere"],
        "config.json is missing": [f"pretrained={tmp_path}"],
        "model.position": [f"pretrained={checkpoint}", "model.context_length=128"],
        "knows 304": [f"pretrained={checkpoint}", "tokenizer=bpe", "tokenizer.vocab_size=400"],
    }
    for word, arguments in cases.items():
        run = train("model=gpt2", *arguments)
        assert run.code == 2, word
        lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and word in lines[0] and "Traceback" not in run.err, run.err
