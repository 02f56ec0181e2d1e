"""How alike are in-context learning and fine-tuning on the same demonstrations? (arXiv 2212.10559 §4)

For n queries and three settings: ZSL (no demonstrations), ICL (they stand before the query), FT (trained
on, then zero-shot). Of layer l: a the output of its attention after W_O, before the residual sum, at
the last position; s the last position's scores q.k / sqrt(D) before softmax and mask.

    Rec2FTP   100 #{ZSL wrong, FT right, ICL right} / #{ZSL wrong, FT right}
    SimAOU    mean_n cos(u(a_ICL) - u(a_ZSL), u(a_FT) - u(a_ZSL)),   u(x) = x / (|x| + 1e-20)
    SimAM     mean_n mean_heads cos(s_ICL, s_FT) over the query's own keys, s_ZSL for s_FT "before"
    Kendall   mean_n of the rank correlation tau-b of two weightings of the demonstrations' tokens

cos adds 1e-20 to the product of the norms, so where nothing was updated it is 0. As published SimAOU
normalises first and subtracts second, which alone lifts it: of two independent updates 3 times (in
squared norm) as large as what they update the expected value is 0.25. `normalised=False` subtracts only.

Everything is computed in float64. What is undefined is NaN: `Rate` carries its counts,
`unmoved` counts updates that are zero, and `kendall_by_query` shows which queries have no ranking.

Shapes: n queries, l layers, h heads, c width, t tokens or keys.
"""

from typing import Any

import torch
from torch import Tensor

TINY = 1e-20


class Rate(float):
    """A percentage, `hits` of `count`: NaN where count is 0."""

    hits: int
    count: int

    def __new__(cls, hits: int, count: int) -> "Rate":
        rate = super().__new__(cls, 100 * hits / count if count else float("nan"))
        rate.hits, rate.count = hits, count
        return rate


def accuracy(*, gold: Any, predicted: Any) -> Rate:
    """Percent of (n,) predictions that equal the gold labels."""
    (right,) = _labels(gold=gold, predicted=predicted)
    return Rate(int(right.sum()), len(right))


def rec2ftp(*, gold: Any, zsl: Any, ft: Any, icl: Any) -> Rate:
    """Of the queries that fine-tuning mends, the percentage that demonstrations mend too.

    All (n,) labels. NaN with count 0 where fine-tuning mends none.
    """
    zsl_right, ft_right, icl_right = _labels(gold=gold, zsl=zsl, ft=ft, icl=icl)
    mended = ~zsl_right & ft_right
    return Rate(int((mended & icl_right).sum()), int(mended.sum()))


def sim_aou(*, zsl: Any, icl: Any, ft: Any, normalised: bool = True) -> Tensor:
    """(l,) mean cosine of the two updates of the attention outputs (n, l, c)."""
    return aou_cosines(zsl=zsl, icl=icl, ft=ft, normalised=normalised).mean(0)


def aou_cosines(*, zsl: Any, icl: Any, ft: Any, normalised: bool = True) -> Tensor:
    """(n, l), what `sim_aou` is the mean of."""
    zsl, icl, ft = _alike(3, zsl=zsl, icl=icl, ft=ft)
    if normalised:
        zsl, icl, ft = (unit(x) for x in (zsl, icl, ft))
    return cosine(icl - zsl, ft - zsl)


def random_aou_cosines(
    *, zsl: Any, icl: Any, generator: torch.Generator, law: str = "normal", normalised: bool = True
) -> Tensor:
    """(n, l): `aou_cosines` with noise for the update of fine-tuning.

    law: "normal", N(0, 1), or "uniform", [0, 1) as published, which has a positive mean and so is
    near zero only where the coordinates of the update nearly sum to zero.
    """
    zsl, icl = _alike(3, zsl=zsl, icl=icl)
    if normalised:
        zsl, icl = unit(zsl), unit(icl)
    draw = {"normal": torch.randn, "uniform": torch.rand}[law]
    noise = draw(icl.shape, generator=generator, dtype=icl.dtype)
    return cosine(icl - zsl, noise)


def sim_am(*, icl: Any, ft: Any) -> Tensor:
    """(l,) mean over queries and heads of the cosine of scores (n, l, h, t), left-padded with 0."""
    return am_cosines(icl=icl, ft=ft).mean(0)


def am_cosines(*, icl: Any, ft: Any) -> Tensor:
    """(n, l), what `sim_am` is the mean of."""
    icl, ft = _alike(4, icl=icl, ft=ft)
    return cosine(icl, ft).mean(2)


def sim_am_delta(*, zsl: Any, icl: Any, ft: Any) -> Tensor:
    """(l,) `sim_am` of what each setting changed in the zero-shot scores (arXiv 2311.07772)."""
    zsl, icl, ft = _alike(4, zsl=zsl, icl=icl, ft=ft)
    return sim_am(icl=icl - zsl, ft=ft - zsl)


def unmoved(*, zsl: Any, other: Any) -> Tensor:
    """(l,) the number of queries whose zero-shot tensor (n, l, ...) `other` leaves exactly as it is."""
    zsl, other = torch.as_tensor(zsl), torch.as_tensor(other)
    return (zsl == other).flatten(2).all(2).sum(0)


def kendall(*, icl: Any, ft: Any) -> Tensor:
    """(l,) mean rank correlation of two scores over tokens (n, l, t).

    The mean is over the queries that have a ranking; NaN where none has.
    """
    return kendall_by_query(icl=icl, ft=ft).nanmean(0)


def kendall_by_query(*, icl: Any, ft: Any) -> Tensor:
    """(n, l) Kendall's tau-b; NaN where there are fewer than two tokens or all tie in one of the two.

    Without ties it is (concordant - discordant) / (t (t - 1) / 2). O(t^2) time and memory a layer.
    """
    icl, ft = _alike(3, icl=icl, ft=ft)
    tau = icl.new_full(icl.shape[:2], float("nan"))
    for query in range(icl.shape[0]):
        for layer in range(icl.shape[1]):
            tau[query, layer] = _tau_b(icl[query, layer], ft[query, layer])
    return tau


def _tau_b(x: Tensor, y: Tensor) -> Tensor:
    a, b = (torch.sign(z[:, None] - z) for z in (x, y))  # antisymmetric: each pair stands twice
    pairs = (a.square().sum() * b.square().sum()).sqrt()
    return (a * b).sum() / pairs  # 0 / 0 is NaN


def unit(x: Tensor) -> Tensor:
    """x over its norm along the last axis, 0 where it is 0."""
    return x / (x.norm(dim=-1, keepdim=True) + TINY)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last axis, 0 where a or b is 0."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + TINY)


def _alike(dim: int, **given: Any) -> list[Tensor]:
    """Float64 tensors of one shape. Raises ValueError naming the one that differs."""
    tensors = {name: torch.as_tensor(x).detach().cpu().double() for name, x in given.items()}
    first = next(iter(tensors.values()))
    for name, x in tensors.items():
        if x.dim() != dim:
            raise ValueError(f"{name}: must have {dim} axes, has shape {tuple(x.shape)}")
        if x.shape != first.shape:
            raise ValueError(
                f"{name}: has shape {tuple(x.shape)}, {next(iter(tensors))} has {tuple(first.shape)}"
            )
    return [*tensors.values()]


def _labels(**given: Any) -> list[Tensor]:
    """(n,) for each but `gold`: where it equals the gold label. Raises ValueError on other lengths."""
    lists = {name: list(x.tolist() if hasattr(x, "tolist") else x) for name, x in given.items()}
    gold = lists.pop("gold")
    for name, labels in lists.items():
        if len(labels) != len(gold):
            raise ValueError(f"{name}: {len(labels)} labels for {len(gold)} queries")
    return [
        torch.tensor([a == b for a, b in zip(x, gold)], dtype=torch.bool) for x in lists.values()
    ]
