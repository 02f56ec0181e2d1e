"""Momentum attention against plain attention: the published comparison, small, and its cost.

.. include:: README.md
"""
