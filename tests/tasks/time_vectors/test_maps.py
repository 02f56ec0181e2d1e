"""Vectors as points in the plane."""

import sys

import numpy as np
import pytest

from tasks.time_vectors.maps import planes, principal_plane


def clusters(n: int) -> np.ndarray:
    """Half of the vectors near one direction, half near another, in 40 dimensions."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(2, 40))
    return np.repeat(centres, n // 2, 0) + 0.3 * draw.normal(size=(n, 40))


def apart(points: np.ndarray) -> float:
    """Distance of the halves' means over their spread."""
    halves = np.split(points, 2)
    spread = max(half.std(0).max() for half in halves)
    return float(np.linalg.norm(halves[0].mean(0) - halves[1].mean(0)) / spread)


def test_the_principal_plane_keeps_apart_what_points_elsewhere():
    vectors = clusters(24)
    points = principal_plane(vectors)
    assert points.shape == (24, 2) and apart(points) > 4
    longer = vectors * np.linspace(1, 9, 24)[:, None]
    assert principal_plane(longer) == pytest.approx(points), "lengths do not count"
    assert [*planes(vectors[:11])] == ["PCA"], "with fewer points than neighbours UMAP says nothing"


def test_without_umap_the_remedy_is_said(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    assert [*planes(clusters(24))] == ["PCA"]
    assert "pip install 'transformer-zoo[umap]'" in capfd.readouterr().err


@pytest.mark.slow
def test_umap_keeps_neighbours_and_is_the_same_for_a_seed():
    pytest.importorskip("umap")
    vectors = clusters(40)
    found = planes(vectors)
    assert [*found] == ["PCA", "UMAP"]
    assert found["UMAP"].shape == (40, 2) and apart(found["UMAP"]) > 2
    assert np.array_equal(found["UMAP"], planes(vectors)["UMAP"])
