"""Time vectors: the period that a language model was tuned on, as a direction in its weights.

.. include:: README.md
"""
