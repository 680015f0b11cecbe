"""Choosing a checkpoint without a simulator: ``select = "ope"`` in a suite.

At every evaluation on the way the return of each replica is also estimated from its own training data (fitted Q
evaluation, see :mod:`marlzoo.offpolicy.ope`). Tables show the return of the checkpoint with the highest estimate
beside that of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from marlzoo.errors import DataError

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.data.dataset import Dataset

UPDATES = 3000  # of the fit of values
ESTIMATOR: Literal["fqe"] = "fqe"  # it alone fits both kinds of actions


def require_starts(data: Dataset) -> None:
    """Raise an error for data with unknown episode starts, before any training.

    Raises:
        DataError: they do not.
    """
    if not data.card.bounds_known:
        raise DataError(
            f"{data.card.title}: its source does not tell where episodes begin, so that returns cannot be estimated; "
            'leave select = "ope" out of the suite, or give the rows where episodes start and end'
        )


def estimates(learner: Algorithm, data: Sequence[Dataset]) -> list[float]:
    """The estimated discounted return of every replica as it is; the learner and its random numbers stay untouched.

    Args:
        learner: R replicas.
        data: R datasets, those that the replicas are trained on.
    """
    from marlzoo.offpolicy.fqe import FQESettings
    from marlzoo.offpolicy.ope import ope

    settings = FQESettings(updates=UPDATES, members=1)  # an interval is not needed
    values = [0.0] * len(data)
    for dataset in {id(each): each for each in data}.values():
        for replica, found in enumerate(ope(learner, dataset, estimators=(ESTIMATOR,), settings=settings)):
            if data[replica] is dataset:
                values[replica] = found.value
    return values
