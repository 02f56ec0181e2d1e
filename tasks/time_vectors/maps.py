"""The vectors of a study as points in the plane.

PCA     the two principal coordinates of the vectors, each made to length one
UMAP    McInnes et al. 2018, by the cosine, n_neighbors 10 and min_dist 0.4 as the paper has them for
        years; says nothing about fewer points than neighbours, and needs the extra `umap`
"""

from typing import Any

import numpy as np

from tasks.run_folder import say

NEIGHBOURS = 10


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """The two principal coordinates (n, 2) of vectors (n, d), made to length one before."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)
    return U[:, :2] * S[:2]


def umap_plane(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """UMAP's coordinates (n, 2) of vectors (n, d). Raises ImportError without umap-learn."""
    from umap import UMAP

    fitted = UMAP(
        n_neighbors=NEIGHBOURS, min_dist=0.4, metric="cosine", random_state=seed, n_jobs=1
    )
    return np.asarray(fitted.fit_transform(vectors))


def planes(vectors: np.ndarray) -> dict[str, Any]:
    """Every map that these vectors (n, d) allow."""
    found = {"PCA": principal_plane(vectors)}
    if len(vectors) > NEIGHBOURS + 1:
        try:
            found["UMAP"] = umap_plane(vectors)
        except ImportError:
            say("no UMAP map: install umap-learn (pip install 'transformer-zoo[umap]')")
    return found
