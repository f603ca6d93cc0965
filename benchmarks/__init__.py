"""Benchmarks: ratios against baselines, each measured in one run. ``python -m benchmarks`` runs them all."""
