"""Is in-context learning gradient descent? Demonstrations read, against demonstrations trained on.

.. include:: README.md
"""
