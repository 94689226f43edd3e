"""Studies: is a method better, and why? Many cells, folds and seeds, and what can be claimed.

    grid.py, grid_check.py    a study as a YAML grid: what has to run, and what a grid may not say
    benchmark.py              `adakd benchmark GRID.yaml` runs it
    findings.py               reads the runs, compares them, and says what may be claimed
    page.py                   the report, with the sentences of words.py and the tables of tables.py
    published.py              the scores that are committed beside a report

How a single run is told is in adakd/report.py; statistics that both need in adakd/significance.py.
"""
