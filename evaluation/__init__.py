"""Metrics, statistics, baselines, the evaluation job and its report. Sees only `recsys`."""
