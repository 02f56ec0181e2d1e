"""Myopic training (Wu et al. 2024, arXiv 2404.00859): does a model prepare for tokens yet to come?

    task.py            what every task here measures: losses by sequence and position, the gradient's parts
    past.py            the frozen model of the local arm, and where it is found
    angle.py           gradient of the present against gradient of the future
    fresh.py           data drawn afresh by (seed, sample)
    precaching.py      sin(b x) needed later: the data       regression.py     its model and task
    multiplication.py  x*y= with filler zeros: the data      arithmetic.py     its task
    probes.py          linear probes with controls, neuron correlations
    losses.py          losses of a test, sequence by sequence
    arms.py            the runs of a comparison, checked to differ in nothing but the arm
    gaps.py            gap, bonus and malus, paired           report.py         all of it in words and pictures
    bench.py           what a myopic step costs

.. include:: README.md
"""
