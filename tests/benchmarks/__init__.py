"""Measurements on real servers, each a command that prints a table: ``python -m tests.benchmarks.replicas``.

Ratios within one run are what they are for; figures of different machines, or hours, are not to be compared.
"""
