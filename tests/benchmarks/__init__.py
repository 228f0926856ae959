"""Measurements, with servers as the tests have them: ``python -m tests.benchmarks`` for speed and memory.

What is compared is measured in turns in the same run, and ratios of medians are what counts: absolute figures
say as much about the machine, which should do nothing else meanwhile. ``--quick`` takes about a minute and
shows whether everything works, ``--only`` takes some of the `scenarios`, which say what they measure. The
baselines that the worker is compared with are in `baselines`.

Other questions have commands of their own that print a table: ``python -m tests.benchmarks.poison``,
``own_writes``, ``rebuild``, ``replicas``.
"""
