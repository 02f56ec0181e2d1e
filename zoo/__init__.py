"""Architectures in plain torch: a decoder made of positions, mixers, masks, norms and MLPs that compose freely.

.. include:: README.md
"""
