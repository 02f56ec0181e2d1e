"""The published measures on cases small enough to compute by hand, quirks included."""

import math

import pytest
import torch

from tasks.icl import metrics


def row(*values: float) -> torch.Tensor:
    """One query, one layer."""
    return torch.tensor([[values]], dtype=torch.float64)


def test_rec2ftp_by_hand():
    """Only queries that fine-tuning mends count: 3 of these 6, of which demonstrations mend 2."""
    gold = [0, 1, 2, 0, 1, 2]
    zsl_ = [1, 0, 0, 0, 0, 2]  # right: the 4th and the 6th
    ft__ = [0, 1, 2, 0, 0, 1]  # mends the first three
    icl_ = [0, 1, 0, 0, 1, 2]  # mends two of them, and one that fine-tuning does not
    rate = metrics.rec2ftp(gold=gold, zsl=zsl_, ft=ft__, icl=icl_)
    assert rate == pytest.approx(200 / 3) and (rate.hits, rate.count) == (2, 3)
    tensors = {"gold": gold, "zsl": zsl_, "ft": ft__, "icl": icl_}
    assert metrics.rec2ftp(**{k: torch.tensor(v) for k, v in tensors.items()}) == rate


def test_rec2ftp_without_anything_mended_is_nan_with_its_count():
    """The published script divides by zero here."""
    rate = metrics.rec2ftp(gold=[0, 1], zsl=[0, 0], ft=[0, 0], icl=[0, 1])
    assert math.isnan(rate) and (rate.hits, rate.count) == (0, 0)
    assert math.isnan(metrics.rec2ftp(gold=[], zsl=[], ft=[], icl=[]))


def test_accuracy_by_hand():
    assert metrics.accuracy(gold=[0, 1, 2, 3], predicted=[0, 1, 2, 0]) == 75.0
    assert metrics.accuracy(gold=["a", "b"], predicted=["b", "b"]) == 50.0
    assert math.isnan(metrics.accuracy(gold=[], predicted=[]))


def test_sim_aou_normalises_first_and_subtracts_second():
    """Lengths of the outputs do not count as published, and do without normalising."""
    zsl, icl, ft = row(2, 0), row(0, 5), row(3, 3)
    # u: (1,0), (0,1), (r,r) with r = 1/sqrt 2; updates (-1,1) and (r-1, r).
    r = 1 / math.sqrt(2)
    expected = (1 - r + r) / (math.sqrt(2) * math.hypot(r - 1, r))
    assert metrics.sim_aou(zsl=zsl, icl=icl, ft=ft).tolist() == pytest.approx([expected])
    # updates (-2,5) and (1,3)
    raw = metrics.sim_aou(zsl=zsl, icl=icl, ft=ft, normalised=False)
    assert raw.tolist() == pytest.approx([13 / math.sqrt(29 * 10)])


def test_sim_aou_is_a_mean_over_queries_for_each_layer():
    zsl = torch.zeros(2, 3, 2)
    icl = torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    ft = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]], [[1, 0], [1, 0], [0, 2]]])
    found = metrics.sim_aou(zsl=zsl, icl=icl, ft=ft, normalised=False)
    assert found.tolist() == pytest.approx([1.0, 0.5, -0.5])


def test_pure_noise_reaches_a_quarter():
    """The critique of the published form: z orthogonal to independent r, r' of |r|^2 = 3 |z|^2."""
    z, r, other = row(1, 0, 0), row(0, 3**0.5, 0), row(0, 0, 3**0.5)
    assert metrics.sim_aou(zsl=z, icl=z + r, ft=z + other).tolist() == pytest.approx([0.25])
    assert metrics.sim_aou(zsl=z, icl=z + r, ft=z + other, normalised=False).tolist() == [0.0]


def test_no_update_counts_as_zero_and_is_counted():
    """The guard of the published cosine; such zeros must not hide in a mean."""
    zsl, icl = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    ft = zsl.clone()
    ft[0, 1] += 1.0
    found = metrics.aou_cosines(zsl=zsl, icl=icl, ft=ft)
    assert found[1:].eq(0).all() and found[0, 0] == 0 and found[0, 1] != 0
    assert metrics.unmoved(zsl=zsl, other=ft).tolist() == [3, 2]


def test_random_control_of_uniform_noise_has_a_bias_and_normal_noise_has_none():
    """As published, noise in [0, 1): an update whose coordinates share a sign looks aligned to it."""
    zsl, icl = torch.zeros(400, 1, 50), torch.ones(400, 1, 50)
    draw = torch.Generator().manual_seed(0)
    both = {
        law: metrics.random_aou_cosines(zsl=zsl, icl=icl, generator=draw, law=law).mean().item()
        for law in ("uniform", "normal")
    }
    # E cos of ones with uniforms: (1/2) / sqrt(1/3); the mean of 400 normal ones is off by 3 s.e.
    assert both["uniform"] == pytest.approx(0.5 * 3**0.5, abs=0.01)
    assert abs(both["normal"]) < 3 / math.sqrt(400 * 50)


def test_sim_am_by_hand():
    """Raw scores, no softmax, no centring; a left padding of zeros changes nothing."""
    icl = torch.tensor([[[[3.0, 4.0], [1.0, 0.0]]]])  # one query, one layer, two heads
    ft = torch.tensor([[[[4.0, 3.0], [0.0, 7.0]]]])
    assert metrics.sim_am(icl=icl, ft=ft).tolist() == pytest.approx([(24 / 25 + 0) / 2])
    padded = [torch.nn.functional.pad(x, (3, 0)) for x in (icl, ft)]
    assert metrics.sim_am(icl=padded[0], ft=padded[1]).tolist() == pytest.approx([0.48])
    shifted = metrics.sim_am(icl=icl + 10, ft=ft + 10)
    assert shifted.item() > 0.9, "centring would have left it as it was"
    zsl = torch.tensor([[[[3.0, 3.0], [0.0, 0.0]]]])  # changes (0,1),(1,0) and (1,0),(0,7)
    assert metrics.sim_am_delta(zsl=zsl, icl=icl, ft=ft).tolist() == [0.0]


def test_kendall_by_hand():
    """Four tokens: 1-2, 1-3, 1-4 and 2-3 agree, 2-4 and 3-4 do not: (4 - 2) / 6."""
    tau = metrics.kendall(icl=row(1, 2, 3, 4), ft=row(0.1, 3.0, 3.5, 2.0))
    assert tau.tolist() == pytest.approx([1 / 3])
    assert metrics.kendall(icl=row(1, 2, 3), ft=row(9, 5, 1)).tolist() == [-1.0]
    same = metrics.kendall(icl=row(1, 2, 3), ft=row(1e-30, 1e-29, 5))
    assert same.tolist() == [1.0], "ranks alone count: a softmax first would have made ties"


def test_kendall_of_ties_is_tau_b():
    """x ties 1-2: numerator 2, pairs 2 of x and 3 of y."""
    tau = metrics.kendall(icl=row(1, 1, 2), ft=row(1, 2, 3))
    assert tau.tolist() == pytest.approx([2 / math.sqrt(2 * 3)])


def test_kendall_without_a_ranking_is_nan_and_shown():
    assert metrics.kendall(icl=row(1), ft=row(2)).isnan().all()
    assert metrics.kendall(icl=row(1, 1), ft=row(1, 2)).isnan().all()
    icl = torch.tensor([[[1.0, 1.0]], [[1.0, 2.0]]])
    ft = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])
    assert metrics.kendall(icl=icl, ft=ft).tolist() == [1.0]
    assert metrics.kendall_by_query(icl=icl, ft=ft).isnan().flatten().tolist() == [True, False]


def test_nothing_to_average_is_nan():
    none = torch.zeros(0, 2, 4)
    assert metrics.sim_aou(zsl=none, icl=none, ft=none).isnan().all()
    heads = torch.zeros(0, 2, 3, 4)
    assert metrics.sim_am(icl=heads, ft=heads).isnan().all()
    assert metrics.kendall(icl=none, ft=none).isnan().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: metrics.sim_am(icl=torch.zeros(1, 1, 1, 2), ft=torch.zeros(1, 1, 1, 3)),
            "ft: has",
        ),
        (lambda: metrics.kendall(icl=torch.zeros(2, 3), ft=torch.zeros(2, 3)), "icl: must have 3"),
        (lambda: metrics.rec2ftp(gold=[0], zsl=[0, 1], ft=[0], icl=[0]), "zsl: 2 labels for 1"),
    ],
)
def test_shapes_that_do_not_meet_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
