"""Convergence test of a method's values at the end of a run, on which the tables' warnings are based.

A comparison of runs whose values still move measures how far each has come, not what it reaches. Learners report
the mean value of the data's actions, ``value/data_mean``, at about 200 updates of a run (see
:mod:`marlzoo.training.loggers`). The test compares its mean over the last quarter of the run with that over the
quarter before.
"""

from __future__ import annotations

import math

import numpy as np

from .stats import Floats

# Metrics of marlzoo.objectives that rows carry.
VALUE = "value/data_mean"
ESS = "weight/ess"
STILL = 0.05
"""Largest drift of values that count as converged.

A value that approaches its limit like ``1 - exp(-t / T)`` has this drift after about four T, when it is two percent
away from the limit; one that grows linearly has a drift of 0.25.
"""


def value_drift(updates: Floats, values: Floats) -> float | None:
    """How much a value still moved at the end, as a fraction of its largest size.

    ``(mean over the last quarter - mean over the quarter before) / max |value|``, quarters in updates.

    Args:
        updates: ``[K]`` updates at which the value is known.
        values: ``[K]``.

    Returns:
        The drift; infinite where a value is not finite, None where a quarter holds no point.
    """
    if not len(updates):
        return None
    last = updates[-1]
    third = values[(updates > last / 2) & (updates <= 3 * last / 4)]
    fourth = values[updates > 3 * last / 4]
    if not len(third) or not len(fourth):
        return None
    if not np.isfinite(values).all():
        return math.inf
    size = float(np.abs(values).max())
    return float(fourth.mean() - third.mean()) / size if size else 0.0


def moving(drifts: Floats) -> float | None:
    """Mean size of the drifts of several runs (replicas of one method on one dataset) if it is too large, else None.

    It has the sign of their mean: runs that move apart have not converged, though their mean may stand still. A drift
    that is not finite counts as too large; runs without one are left out.
    """
    known = drifts[~np.isnan(drifts)]
    if not len(known):
        return None
    size = float(np.abs(known).mean())
    return math.copysign(size, known.mean()) if size > STILL else None
