"""Completion of data without a header by the task that the user names."""

from __future__ import annotations

from dataclasses import replace

from marlzoo.data.assemble import require_padding
from marlzoo.data.dataset import Dataset
from marlzoo.spec import Spec

# What a reader notes that has only the arrays to go by.
SIZES_ASSUMED = "the file has no header: sizes are as the arrays show them"
LIMIT_ASSUMED = "the time limit is the longest episode"


def fitted(dataset: Dataset, spec: Spec) -> Dataset:
    """A dataset that names no task as one of the task of ``spec``; one that names its task as it is.

    Arrays alone do not show the sizes of smaller agents, the time limit, or a discrete action that nobody took. They
    are the task's where the arrays have its shapes. Arrays of other shapes keep the spec that was read from them.

    Raises:
        DataError: numbers where a smaller agent has none, episodes beyond the time limit, or actions beyond an
            agent's own.
    """
    if dataset.card.task or not spec.task:
        return dataset
    card = replace(dataset.card, task=spec.task)
    if dataset.spec == spec or not _has_shapes(dataset, spec):
        return replace(dataset, spec=replace(dataset.spec, task=spec.task), card=card)
    require_padding({"obs": dataset.obs, "action": dataset.action}, spec)
    note = f"sizes and time limit are those of the task {spec.task}"
    others = (other for other in card.notes if other not in (SIZES_ASSUMED, LIMIT_ASSUMED))
    card = replace(card, content_hash="", notes=(*others, note))
    return replace(dataset, spec=spec, card=card).validate()


def _has_shapes(dataset: Dataset, spec: Spec) -> bool:
    if dataset.spec.action_kind != spec.action_kind:
        return False
    layout = spec.layout()
    return all(array.shape[1:] == layout[name].shape for name, array in dataset.arrays.items())
