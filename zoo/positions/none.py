"""No positions at all (NoPE): the causal mask alone tells order.

Haviv et al. 2022, arXiv 2203.16634; Kazemnejad et al. 2023, arXiv 2305.19466.
"""

from zoo.positions.base import Position


class NoPosition(Position):
    """The base class as it stands."""
