"""Benchmarks: what docs/PERFORMANCE.md claims, measured. No test, and nothing that a recipe needs.

Every contender runs in turn, again and again, within one run: only ratios of one run say something.
"""
