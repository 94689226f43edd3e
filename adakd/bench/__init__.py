"""Benchmarks: what docs/PERFORMANCE.md claims, measured. No test, and nothing that a recipe needs.

Times are of contenders in turn, again and again, within one run: only their ratios say something.
Peaks and sizes are of single runs.
"""
