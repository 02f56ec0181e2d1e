"""PICL: pre-training to learn in context (Gu et al. 2023, arXiv 2305.09137).

.. include:: README.md
"""
