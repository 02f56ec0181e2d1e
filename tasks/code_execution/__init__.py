"""Predicting what a program does: CodeExecutor (Liu et al. 2023, arXiv 2305.05383).

.. include:: README.md
"""
