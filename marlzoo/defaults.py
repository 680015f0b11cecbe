"""Budgets where neither a suite nor an option names one; the same everywhere."""

UPDATES = 100_000  # gradient updates of a run
# Of a dataset: what its plain name stands for.
TRANSITIONS = 100_000
SEED = 0
