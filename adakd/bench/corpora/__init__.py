"""Corpora that only benchmarks use; `adakd.bench.memory` adds this folder to `adakd.corpora`."""
