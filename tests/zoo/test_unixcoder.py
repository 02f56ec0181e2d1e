"""UniXcoder from the zoo's parts: the same numbers as transformers' RoBERTa, from the same weights."""

import pytest
import torch
from test_conf import composed
from transformers import RobertaConfig, RobertaModel

from kernels.attention.masks import causal, full, prefix
from tasks.run_folder import plain
from zoo.load import ConfigError, build
from zoo.unixcoder import load_weights

SHAPE = {"width": 32, "num_layers": 3, "num_heads": 4, "context_length": 20, "vocab_size": 50}


def unixcoder(**shape):
    node = plain(composed("model=unixcoder"))["model"] | SHAPE | shape
    return build(node, key="model")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A RoBERTa with random weights, its own initial zeros and ones included, and its folder."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=26,
        type_vocab_size=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        attn_implementation="eager",
    )
    theirs = RobertaModel(config).double().eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    folder = tmp_path_factory.mktemp("roberta")
    theirs.save_pretrained(folder)
    return theirs, folder


def theirs_under(model, tokens_BT, visible_BTT):
    """RoBERTa's last hidden states where `visible` says what is seen."""
    additive = torch.zeros(visible_BTT.shape, dtype=torch.float64)
    additive = additive.masked_fill(~visible_BTT, torch.finfo(torch.float64).min)
    embedded = model.embeddings(input_ids=tokens_BT)
    return model.encoder(embedded, attention_mask=additive[:, None]).last_hidden_state


@pytest.mark.parametrize("kind", ["prefix", "causal", "full"])
def test_hidden_states_are_those_of_roberta(saved, kind):
    theirs, folder = saved
    ours = unixcoder().double().eval()
    load_weights(ours, folder)
    tokens = torch.randint(4, 48, (3, 17))
    mask = {"prefix": prefix(torch.tensor([5, 9, 17])), "causal": causal(), "full": full()}[kind]
    visible = mask.dense(17).expand(3, 17, 17)
    with torch.no_grad():
        expected = theirs_under(theirs, tokens, visible)
        torch.testing.assert_close(ours.hidden(tokens, mask=mask), expected, rtol=0, atol=1e-10)
        logits = expected @ theirs.embeddings.word_embeddings.weight.T
        found = ours(tokens, mask=mask)[..., :48]
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-10)


def test_padding_before_a_text_changes_nothing(saved):
    """Programs of several lengths are decoded together, each with the positions it was trained at."""
    _, folder = saved
    ours = unixcoder().double().eval()
    load_weights(ours, folder)
    text = torch.randint(4, 48, (1, 12))
    row = torch.cat((torch.full((1, 5), 1), text), dim=1)
    padding = torch.tensor([5])
    with torch.no_grad():
        alone = ours.hidden(text, mask=prefix(8))
        padded = ours.hidden(row, mask=prefix(13), padding_B=padding)[:, 5:]
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-10)
        cache = ours.new_cache()
        first = ours.hidden(row[:, :13], mask=prefix(13), padding_B=padding, cache=cache)[:, 5:]
        rest = [
            ours.hidden(row[:, t : t + 1], mask=prefix(13), padding_B=padding, cache=cache)
            for t in range(13, 17)
        ]
        torch.testing.assert_close(torch.cat((first, *rest), 1), alone, rtol=0, atol=1e-10)


def test_a_grown_vocabulary_keeps_the_start_of_its_new_rows(saved):
    theirs, folder = saved
    ours = unixcoder().double()
    start = ours.embedding.weight[48:].clone()
    load_weights(ours, folder)
    assert torch.equal(ours.embedding.weight[:48], theirs.embeddings.word_embeddings.weight)
    assert torch.equal(ours.embedding.weight[48:], start)
    assert ours.head.weight is ours.embedding.weight


def test_a_pickled_checkpoint_is_read_too(saved, tmp_path):
    """The Hub's own files are pytorch_model.bin, written by a model that holds the encoder."""
    theirs, folder = saved
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    named = {f"roberta.{n}": x for n, x in theirs.state_dict().items()}
    torch.save(named, tmp_path / "pytorch_model.bin")
    one, other = unixcoder(), unixcoder()
    load_weights(one, folder)
    load_weights(other, tmp_path)
    assert torch.equal(one.blocks[2].mixer.qkv.weight, other.blocks[2].mixer.qkv.weight)
    assert torch.equal(one.position.table.weight, other.position.table.weight)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ({"width": 64}, "model.width: is 64, .* has 32; give model.width=32"),
        ({"num_layers": 2}, "model.num_layers: is 2, .* has 3"),
        ({"vocab_size": 40}, "model.vocab_size: is 40, .* has 48; use the checkpoint's tokenizer"),
        ({"context_length": 30}, "model.context_length: is 30, .* has positions for 24"),
    ],
)
def test_another_shape_is_refused_by_its_key(saved, shape, line):
    with pytest.raises(ConfigError, match=line):
        load_weights(unixcoder(**shape), saved[1])


def test_a_missing_checkpoint_is_one_line():
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_weights(unixcoder(), "nobody/nothing-of-this-name")


def test_it_is_unixcoders_size():
    with torch.device("meta"):
        model = unixcoder(
            width=768, num_layers=12, num_heads=12, context_length=1024, vocab_size=51627
        )
    # RobertaModel without its pooler, type table and padding's two positions.
    blocks = 12 * (12 * 768**2 + 13 * 768)
    assert sum(p.numel() for p in model.parameters()) == 768 * (51627 + 1024 + 2) + blocks
