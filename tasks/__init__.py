"""What the models are trained and judged on: Lightning modules, data and measurements.

.. include:: README.md
"""
