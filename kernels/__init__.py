"""Operations under the zoo: one folder each, with reference.py (the specification), triton.py and op.py.

.. include:: README.md
"""
