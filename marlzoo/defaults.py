"""Budgets where neither a suite nor an option names one; the same everywhere."""

UPDATES = 100_000  # gradient updates of a run
TRANSITIONS, SEED = 100_000, 0  # of a dataset; what its plain name stands for
