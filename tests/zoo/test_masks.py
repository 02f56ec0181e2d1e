"""Who sees whom: masks pair by pair, what reaches an output through layers, and packed documents."""

import pytest
import torch
from torch import Tensor

from kernels.attention import masks
from tests.zoo import oracle, schemes
from tests.zoo.schemes import MASKS, RELATIVE, tokens
from zoo import masks as named
from zoo.load import ConfigError

BCA_BY_HAND = """
1.........
11........
111.......
1111......
..111.....
..1111....
....111...
....1111..
......111.
......1111
"""


def dense(text: str) -> Tensor:
    return torch.tensor([[c == "1" for c in line] for line in text.split()])


# ---- the masks themselves -----------------------------------------------------------------------


def test_blockwise_by_hand() -> None:
    """The drawing of the fact sheet, N = 4 and L = 10: LeX's mask, row by row."""
    expected = dense(BCA_BY_HAND)
    assert torch.equal(masks.blockwise_causal(2).dense(10), expected)
    assert torch.equal(named.blockwise_causal(context_length=4).dense(10), expected)


@pytest.mark.parametrize("h", [1, 2, 5, 16])
def test_blockwise_is_causal_up_to_the_training_length(h: int) -> None:
    """Within the training length LeX must be the model that was trained."""
    for T in range(1, 2 * h + 1):
        assert torch.equal(masks.blockwise_causal(h).dense(T), masks.causal().dense(T))
    beyond = 2 * h + 1
    assert not torch.equal(masks.blockwise_causal(h).dense(beyond), masks.causal().dense(beyond))


@pytest.mark.parametrize("h", [1, 3, 8])
def test_keys_a_query_sees_under_blockwise(h: int) -> None:
    """Between h + 1 and 2h keys past the first block: what bounds the cache and the distances."""
    seen = masks.blockwise_causal(h).dense(9 * h + 2).sum(-1)
    for p in range(h, 9 * h + 2):
        assert int(seen[p]) == p % h + 1 + h
    past = seen[h : 9 * h].double()
    assert float(past.mean()) == 0.75 * 2 * h + 0.5


@pytest.mark.parametrize("w", [1, 2, 7, 40])
def test_window_keeps_its_width(w: int) -> None:
    """A band of exactly w keys: one more is a distance that was never trained."""
    for T in (1, 2, 7, 33):
        found = masks.sliding_window(w).dense(T)
        assert torch.equal(found, oracle.visible("window", T, w))
        assert (found.sum(-1) == torch.arange(1, T + 1).clamp(max=w)).all()


@pytest.mark.parametrize("kind, size", [("causal", None), ("window", 4), ("blockwise", 3)])
def test_fewer_queries_are_the_last_rows(kind: str, size: int | None) -> None:
    """Cached decoding asks for the last rows of the same mask."""
    made = {"causal": masks.causal, "window": masks.sliding_window}.get(
        kind, masks.blockwise_causal
    )
    mask = made() if size is None else made(size)
    for S in (1, 6, 19):
        for T in range(1, S + 1):
            assert torch.equal(mask.dense(T, S), oracle.visible(kind, S, size)[-T:])


def test_named_masks_take_the_training_length() -> None:
    """`mask=sliding_window` and `mask=blockwise` without options follow the trained length."""
    assert named.causal(context_length=12) == masks.causal()
    assert named.sliding_window(context_length=12) == masks.sliding_window(12)
    assert named.sliding_window(context_length=12, window=5) == masks.sliding_window(5)
    assert named.blockwise_causal(context_length=12) == masks.blockwise_causal(6)
    assert named.blockwise_causal(context_length=12, block=5) == masks.blockwise_causal(5)


def test_masks_refuse_what_makes_no_sense() -> None:
    """An odd training length has no half; a window of zero hides the token itself."""
    with pytest.raises(ValueError, match=r"^context_length.*even"):
        named.blockwise_causal(context_length=13)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="window"):
            named.sliding_window(context_length=12, window=bad)
        with pytest.raises(ValueError, match="block"):
            named.blockwise_causal(context_length=12, block=bad)
    with pytest.raises(ConfigError, match=r"model\.mask"):
        schemes.model(mask={"_target_": "zoo.masks.sliding_window", "window": 0})


def some_masks(T: int) -> dict[str, masks.Mask]:
    ids = torch.tensor([0] * 3 + [1] * 5 + [2] + [0] * (T - 9))
    rows = torch.stack((ids, torch.arange(T) // 4))
    return {
        "causal": masks.causal(),
        "window 4": masks.sliding_window(4),
        "window 9": masks.sliding_window(9),
        "block 3": masks.blockwise_causal(3),
        "block 4": masks.blockwise_causal(4),
        "block 6": masks.blockwise_causal(6),
        "full": masks.full(),
        "prefix": masks.prefix(torch.tensor([5, 0])),
        "ids": masks.documents(ids),
        "rows": masks.documents(rows),
    }


def test_documents_pair_by_pair() -> None:
    """A run of equal ids is one document; a later run of the same id is another."""
    ids = [0, 0, 1, 1, 1, 0, 2, 2]
    found = masks.documents(torch.tensor(ids)).dense(8)
    for p in range(8):
        for t in range(8):
            low, high = min(p, t), max(p, t)
            assert bool(found[p, t]) == (len(set(ids[low : high + 1])) == 1)


@pytest.mark.parametrize("T", [11, 20])
def test_intersections_see_what_both_see(T: int) -> None:
    """Masks compose (a packed LeX, a windowed prefix): the intersection, pair by pair."""
    found = some_masks(T)
    for a in found.values():
        for b in found.values():
            expected = a.dense(T) & b.dense(T)
            assert torch.equal((a & b).dense(T).broadcast_to(expected.shape), expected)
            # Three at once, in either grouping.
            c = masks.causal()
            assert torch.equal(((a & b) & c).dense(T), (a & (b & c)).dense(T))


@pytest.mark.parametrize("T", [11, 20])
def test_intervals_only_move_forward(T: int) -> None:
    """lo and hi never fall: what every kernel that skips tiles relies on."""
    found = some_masks(T)
    for a in found.values():
        for b in found.values():
            lo, hi = (a & b).bounds(T)
            assert (lo.diff() >= 0).all() and (hi.diff() >= 0).all()


def test_what_a_later_query_can_need() -> None:
    """The cache drops what is hidden from all later queries, nothing that one of them sees."""
    for name, mask in some_masks(20).items():
        seen = mask.dense(20)
        seen = seen if seen.dim() == 2 else seen.any(0)
        for t in range(20):
            first = int(seen[t:].any(0).nonzero().min())
            assert mask.first_needed(t) == first, (name, t)


def test_a_mask_is_itself_after_its_period() -> None:
    """Dropping whole periods from a cache leaves the mask as it is."""
    for mask in (
        masks.causal(),
        masks.sliding_window(5),
        masks.blockwise_causal(3),
        masks.blockwise_causal(3) & masks.blockwise_causal(4),
        masks.blockwise_causal(3) & masks.sliding_window(4),
    ):
        period = mask.period
        assert period is not None
        assert torch.equal(mask.dense(40)[period:, period:], mask.dense(40 - period))


# ---- reach through layers -----------------------------------------------------------------------


def reach(kind: str, p: int, layers: int, size: int) -> int:
    """How far back a token can still matter to position p."""
    if kind == "causal":
        return p
    if kind == "window":
        return layers * (size - 1)
    return p % size + layers * size


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "kind, size, scheme",
    [
        ("blockwise", 4, "xpos"),
        ("blockwise", 3, "none"),
        ("window", 5, "rope"),
        ("causal", 1, "t5"),
    ],
)
def test_receptive_field(kind: str, size: int, scheme: str, layers: int) -> None:
    """K layers reach (p mod h) + K h back and not one token more; inside, every token counts."""
    T = 22
    option = {"window": "window", "blockwise": "block"}.get(kind)
    node = {**MASKS[kind], **({option: size} if option else {})}
    model = schemes.model(scheme, node, num_layers=layers).double()
    text = tokens(1, T)
    with torch.no_grad():
        base = model(text)
        for t in range(T):
            other = text.clone()
            other[0, t] = (other[0, t] + 1) % schemes.VOCAB
            same = (model(other) == base).all(-1)[0].tolist()
            for p in range(T):
                inside = t <= p and p - t <= reach(kind, p, layers, size)
                assert same[p] != inside, (t, p)


# ---- packed documents ---------------------------------------------------------------------------

LENGTHS = ((5, 1, 9, 16, 6), (12, 13, 2, 3, 7))


def packed(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])


@pytest.mark.parametrize("kind", ["causal", "window"])
@pytest.mark.parametrize("scheme", RELATIVE)
def test_packed_documents_are_documents(scheme: str, kind: str) -> None:
    """Packing must change speed alone: a document in a full row reads as it does by itself."""
    model = schemes.model(scheme, kind).double()
    text = tokens(2, sum(LENGTHS[0]))
    ids = torch.stack([packed(lengths) for lengths in LENGTHS])
    with torch.no_grad():
        found = model(text, documents_BT=ids)
        for b, lengths in enumerate(LENGTHS):
            start = 0
            for n in lengths:
                alone = model(text[b : b + 1, start : start + n])
                part = found[b, start : start + n]
                assert oracle.closeness(part, alone[0]) <= 1e-10
                start += n


@pytest.mark.parametrize("scheme", ["none", "xpos", "xpos half", "rope", "alibi", "t5", "sandwich"])
def test_packed_documents_on_the_block_grid(scheme: str) -> None:
    """LeX counts its blocks from the row's start: documents that begin on one read as by themselves."""
    h, lengths = 5, (10, 15, 5, 7)
    model = schemes.model(scheme, "blockwise").double()
    text = tokens(1, sum(lengths))
    with torch.no_grad():
        found = model(text, documents_BT=packed(lengths)[None])[0]
        start = 0
        for n in lengths:
            assert start % h == 0
            alone = model(text[:, start : start + n])[0]
            assert oracle.closeness(found[start : start + n], alone) <= 1e-10
            start += n


@pytest.mark.parametrize("kind", list(MASKS))
@pytest.mark.parametrize("scheme", ["rope", "xpos", "alibi", "t5", "fire"])
def test_packed_rows_are_the_intersection(scheme: str, kind: str) -> None:
    """Any mask over packed documents, against a decoder by hand under the pairs that both allow."""
    T = sum(LENGTHS[0])
    model = schemes.model(scheme, kind).double()
    text = tokens(2, T)
    ids = torch.stack([packed(lengths) for lengths in LENGTHS])
    see = oracle.visible(kind, T) & (ids[:, :, None] == ids[:, None, :])
    with torch.no_grad():
        found = model(text, documents_BT=ids)
    assert oracle.closeness(found, schemes.decoder(model, scheme, text, see)) <= 1e-10


def test_packing_does_not_forgive_absolute_positions() -> None:
    """The counter-check: learned positions count from the row's start, and the test can tell."""
    model = schemes.model("learned").double()
    text = tokens(1, 12)
    with torch.no_grad():
        found = model(text, documents_BT=packed((5, 7))[None])[0, 5:]
        assert oracle.closeness(found, model(text[:, 5:])[0]) > 1e-3


@pytest.mark.parametrize("kind", ["causal", "window"])
@pytest.mark.parametrize("scheme", [*RELATIVE, "learned", "sinusoidal", "fire"])
def test_left_padding(scheme: str, kind: str) -> None:
    """Padding on the left, hidden: nothing for relative schemes, another text for absolute ones."""
    model = schemes.model(scheme, kind).double()
    text = tokens(2, 13)
    pad = torch.full((2, 6), 3)
    ids = torch.cat((torch.zeros(2, 6), torch.ones(2, 13)), dim=1).long()
    with torch.no_grad():
        found = model(torch.cat((pad, text), dim=1), documents_BT=ids)[:, 6:]
        difference = oracle.closeness(found, model(text))
    assert difference <= 1e-10 if scheme in RELATIVE else difference > 1e-3


def test_gradients_stay_inside_their_document() -> None:
    """Training on packed rows must not leak gradient from one text to another."""
    model = schemes.model("xpos", "blockwise").double()
    text = tokens(1, 24)
    embedded = []
    model.embedding.register_forward_hook(
        lambda m, i, out: embedded.append(out.requires_grad_()) or out.retain_grad()
    )
    model(text, documents_BT=packed((9, 15))[None])[0, 9:].square().sum().backward()
    gradient = embedded[0].grad[0]
    assert (gradient[:9] == 0).all()
    assert (gradient[9:] != 0).any(-1).all()


def test_rows_that_see_nothing_are_finite() -> None:
    """A one-token document sees itself alone: its output is its own value, never NaN."""
    model = schemes.model("rope")
    ids = torch.arange(9)[None]
    with torch.no_grad():
        found = model(tokens(1, 9), documents_BT=ids)
        alone = torch.cat([model(tokens(1, 9)[:, t : t + 1]) for t in range(9)], dim=1)
    assert found.isfinite().all()
    assert oracle.closeness(found, alone) <= 1e-5
