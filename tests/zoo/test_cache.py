"""Decoding with a cache gives what the full pass gives, and keeps no more than the mask can see."""

import pytest
import torch
from torch import Tensor

from kernels.attention import masks
from tests.zoo import oracle, schemes
from tests.zoo.schemes import DYNAMIC, MASKS, PRESETS, SCHEMES, D, H, N, tokens
from zoo.cache import LayerCache

LONG = 53
CHUNKS = {
    "one by one": [1] * LONG,
    "mixed": [9, 1, 1, 13, 2, 1, 20, 6],
    "whole window": [16, 1, 16, 16, 4],
    "at once": [LONG - 1, 1],
}


@torch.no_grad()
def decoded(model, text: Tensor, chunks: list[int], **options) -> Tensor:
    cache = model.new_cache()
    parts = []
    for part in text.split(chunks, dim=1):
        parts.append(model(part, cache=cache, **options))
        assert cache.length == sum(p.shape[1] for p in parts)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", list(SCHEMES))
def test_cached_is_uncached(name: str, mask: str) -> None:
    """Text generated with a cache must be the text of the model that was trained, token by token."""
    model = schemes.model(name, mask)
    text = tokens(2, LONG)
    with torch.no_grad():
        full = model(text)
    scale = max(1.0, float(full.abs().max()))
    assert (decoded(model, text, CHUNKS["one by one"]) - full).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("chunks", ["mixed", "whole window", "at once"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", list(SCHEMES))
def test_any_chunks_read_alike(name: str, mask: str, chunks: str) -> None:
    """A prompt read in chunks of any size (torchscale's offset is wrong for all but one token)."""
    model = schemes.model(name, mask).double()
    text = tokens(2, LONG)
    with torch.no_grad():
        full = model(text)
    assert oracle.closeness(decoded(model, text, CHUNKS[chunks]), full) <= 1e-10


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", ["rope", "xpos", "alibi", "t5", "fire", "learned"])
def test_grouped_keys_are_cached(name: str, mask: str, groups: int) -> None:
    """Grouped-query models decode as they train, and their cache is smaller by H / G."""
    mixer = {
        "_target_": "zoo.mixers.softmax.SoftmaxAttention",
        "_partial_": True,
        "num_kv_heads": groups,
    }
    model = schemes.model(name, mask, mixer=mixer).double()
    text = tokens(3, LONG)
    with torch.no_grad():
        full = model(text)
    assert oracle.closeness(decoded(model, text, CHUNKS["mixed"]), full) <= 1e-10
    cache = model.new_cache()
    with torch.no_grad():
        model(text[:, :5], cache=cache)
    assert cache.size == 2 * 2 * 3 * groups * 5 * D * 8  # layers, k and v, B, G, T, D, bytes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_decode_as_they_read(name: str) -> None:
    """Each preset under its own mask, in float32."""
    model = schemes.model(name)
    text = tokens(2, LONG)
    with torch.no_grad():
        full = model(text)
    scale = max(1.0, float(full.abs().max()))
    assert (decoded(model, text, CHUNKS["mixed"]) - full).abs().max() <= 1e-5 * scale


def test_dynamic_ntk_with_a_cache() -> None:
    """No stretch yet: the cache and the full pass share their frequencies."""
    model = schemes.model("rope", position=DYNAMIC.node()).double()
    one_layer = schemes.model("rope", position=DYNAMIC.node(), num_layers=1).double()
    text = tokens(2, 40)
    with torch.no_grad():
        full = model(text[:, :N])
        assert oracle.closeness(decoded(model, text[:, :N], [3, 1, 12]), full) <= 1e-10
        # Beyond it keys turn anew at every step: one layer equals the full pass over what is read.
        steps = decoded(one_layer, text, [1] * 40)
        for t in (N, N + 1, 39):
            last = one_layer(text[:, : t + 1])[:, -1]
            assert oracle.closeness(steps[:, t], last) <= 1e-10


@pytest.mark.parametrize("mask", list(MASKS))
def test_another_mask_while_decoding(mask: str) -> None:
    """The mask given at test time (train causal, decode under LeX's) rules the cache as well."""
    model = schemes.model("xpos", "causal").double()
    text = tokens(2, LONG)
    other = schemes.mask(mask)
    with torch.no_grad():
        full = model(text, mask=other)
    found = decoded(model, text, CHUNKS["mixed"], mask=other)
    assert oracle.closeness(found, full) <= 1e-10


@pytest.mark.parametrize(
    "mask",
    [
        masks.blockwise_causal(5) & masks.sliding_window(7),
        masks.blockwise_causal(3) & masks.blockwise_causal(4),
        masks.blockwise_causal(4) & masks.blockwise_causal(6) & masks.sliding_window(9),
    ],
    ids=["block 5, window 7", "blocks 3, 4", "blocks 4, 6, window 9"],
)
@pytest.mark.parametrize("name", ["xpos", "alibi", "fire"])
def test_masks_that_hold_together(name: str, mask: masks.Mask) -> None:
    """Several limits at once: what is dropped must leave every block's grid where it was."""
    model = schemes.model(name, "causal").double()
    text = tokens(2, LONG)
    expected = schemes.decoder(model, name, text, mask.dense(LONG))
    for chunks in ("one by one", "mixed"):
        found = decoded(model, text, CHUNKS[chunks], mask=mask)
        assert oracle.closeness(found, expected) <= 1e-10


@pytest.mark.parametrize("name", ["rope", "xpos", "alibi", "t5", "kerple log"])
def test_left_padded_batch_decodes(name: str) -> None:
    """Prompts of different lengths in one batch, padding hidden by its own document number."""
    model = schemes.model(name, "causal").double()
    text = tokens(1, 20)
    pad = torch.full((1, 4), 2)
    ids = torch.tensor([[0] * 4 + [1] * 20, [1] * 24])
    rows = torch.cat((torch.cat((pad, text), 1), tokens(1, 24, seed=8)))
    cache, found = model.new_cache(), []
    with torch.no_grad():
        end = 0
        for n in (7, 1, 1, 10, 5):
            part = rows[:, end : end + n]
            end += n
            found.append(model(part, cache=cache, documents_BT=ids[:, :end]))
        first, second = torch.cat(found, 1)
        assert oracle.closeness(first[4:], model(text)[0]) <= 1e-10
        assert oracle.closeness(second, model(rows[1:])[0]) <= 1e-10


def test_documents_after_tokens_were_let_go_of() -> None:
    """Document numbers count from the text's start: with a shorter cache they must be shifted along
    or refused, never laid over the wrong keys."""
    model = schemes.model("rope", "window", num_layers=1).double()
    text = tokens(1, 31)
    ids = torch.tensor([[0] * 26 + [1] * 5])
    cache = model.new_cache()
    with torch.no_grad():
        expected = model(text, documents_BT=ids)[:, -1]
        model(text[:, :30], cache=cache)
        assert cache.start > 0
        try:
            found = model(text[:, 30:], cache=cache, documents_BT=ids)[:, -1]
        except ValueError:
            return
    assert oracle.closeness(found, expected) <= 1e-10


# ---- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mask, most",
    [
        ("xpos", {"_target_": "zoo.masks.blockwise_causal"}, N),
        ("t5", {"_target_": "zoo.masks.blockwise_causal"}, N),
        ("fire", {"_target_": "zoo.masks.blockwise_causal"}, N),
        ("rope", {"_target_": "zoo.masks.sliding_window"}, N),
        ("sinusoidal", {"_target_": "zoo.masks.sliding_window"}, N),
        ("xpos", {"_target_": "zoo.masks.sliding_window", "window": 7}, 7),
    ],
)
def test_cache_stays_bounded(name: str, mask: dict, most: int) -> None:
    """50 times the training length in the memory of one window, and still the full pass's logits."""
    model = schemes.model(name, mask)
    T = 50 * N
    text = tokens(1, T)
    token_bytes = 2 * 2 * H * D * 4  # layers, k and v, H, D, bytes
    cache, found = model.new_cache(), []
    chunks = [1] * 300 + [37, 64, 1, 16] + [1] * (T - 418)
    with torch.no_grad():
        for part in text.split(chunks, dim=1):
            found.append(model(part, cache=cache))
            assert cache.length - cache.start <= most
            assert cache.size == (cache.length - cache.start) * token_bytes
        full = model(text)
    logits = torch.cat(found, 1)
    assert logits.isfinite().all()
    assert cache.length == T
    assert (logits - full).abs().max() <= 1e-5 * max(1.0, float(full.abs().max()))


def test_causal_cache_keeps_everything() -> None:
    """Under the plain causal mask nothing may be let go of."""
    model = schemes.model("rope", "causal")
    cache = model.new_cache()
    with torch.no_grad():
        for part in tokens(2, 40).split(8, dim=1):
            model(part, cache=cache)
    assert cache.start == 0
    assert cache.size == 2 * 2 * 2 * H * 40 * D * 4


def test_memory_behind_the_views_is_bounded() -> None:
    """What is let go of must really be freed: the buffers hold a few windows, not the text."""
    cache = LayerCache()
    kept: list[Tensor] = []
    for step in range(500):
        new = torch.full((1, 1, 1, 2), float(step))
        keys, values = cache.extend(new, new + 1000)
        kept = [*kept, new][-8:]
        assert torch.equal(keys, torch.cat(kept, 2))
        assert torch.equal(values, torch.cat(kept, 2) + 1000)
        if keys.shape[2] == 8:
            cache.drop(1)
            kept = kept[1:]
        assert keys.untyped_storage().nbytes() <= 4 * 8 * 2 * 4
    assert cache.start == 500 - 7


def test_beams_reorder() -> None:
    """Beam search: each row goes on from the row that it was copied from."""
    model = schemes.model("xpos").double()
    text = tokens(3, 21)
    order = torch.tensor([2, 0, 0])
    cache = model.new_cache()
    with torch.no_grad():
        model(text[:, :12], cache=cache)
        cache.reorder(order)
        found = model(text[:, 12:], cache=cache)
        full = model(torch.cat((text[order, :12], text[:, 12:]), 1))[:, 12:]
    assert oracle.closeness(found, full) <= 1e-10


def test_a_cache_wants_no_gradient() -> None:
    """Training through a cache would give silently wrong gradients: it is refused."""
    model = schemes.model("rope")
    with pytest.raises(RuntimeError, match="no_grad"):
        model(tokens(1, 3), cache=model.new_cache())
    with torch.inference_mode():
        model(tokens(1, 3), cache=model.new_cache())


def test_learned_table_ends() -> None:
    """A table of positions that is full refuses the next token instead of wrapping round."""
    model = schemes.model("gpt2", max_length=N)
    assert model.max_length == N
    cache = model.new_cache()
    with torch.no_grad():
        model(tokens(1, N), cache=cache)
        with pytest.raises(ValueError, match="max_length"):
            model(tokens(1, 1), cache=cache)


# ---- very long ----------------------------------------------------------------------------------


def test_seventy_thousand_tokens() -> None:
    """LeX at 70,000 tokens in float32, where global xPos overflows: finite, and the last window's."""
    node = {"_target_": "zoo.masks.blockwise_causal"}
    model = schemes.model("xpos", node, num_layers=1, context_length=64, width=16, num_heads=2)
    L, h = 70_000, 32
    text = tokens(1, L)
    with torch.no_grad():
        full = model(text)
        assert full.isfinite().all()
        for p in (4 * h - 1, 4 * h, 36_263, L - 1):
            start = (p // h - 1) * h
            alone = model(text[:, start : p + 1])[0, -1]
            assert oracle.closeness(full[0, p], alone) <= 1e-5


def test_gradients_of_a_long_text_are_finite() -> None:
    """Fine-tuning LeX on long texts: no inf from one end times zero from the other."""
    model = schemes.model("xpos", {"_target_": "zoo.masks.blockwise_causal"}, num_layers=1)
    text = tokens(1, 5001)
    model.loss(text[:, :-1], text[:, 1:])[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_xpos_without_blocks_holds_what_it_promises() -> None:
    """float32, plain causal: finite up to 141 scale bases less what q and k of size 10 take away,
    ln(10 sqrt 2) / ln 3.5 = 2.1 on either side; masked scores, at twice that exponent, included."""
    model = schemes.model("xpos", "causal", num_layers=1)
    text = tokens(1, 136 * N // 2 + 1)
    loss, losses = model.loss(text[:, :-1], text[:, 1:])
    loss.backward()
    assert losses.isfinite().all()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
