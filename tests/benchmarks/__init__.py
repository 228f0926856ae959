"""Measurements, each a command of its own that prints a table: ``python -m tests.benchmarks.poison``.

They start servers as the tests do. What is compared is measured in turns in the same run, and ratios of
medians are what counts: absolute figures say as much about the machine.
"""
