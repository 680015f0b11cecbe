"""Agents of a Minari dataset, with their observations and actions; see :mod:`marlzoo.data.formats.minari`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.formats._minari_write import METADATA
from marlzoo.data.formats._steps import require
from marlzoo.envs._spaces import FlatSpace, UnfitSpaceError, flat_space, natural, parts
from marlzoo.errors import DataError

_CONTAINERS = ("Dict", "Tuple")


@dataclass(frozen=True)
class Acts:
    """One agent's actions: ``size`` dimensions or choices; ``shape`` of one; bounds, or the first choice."""

    discrete: bool
    size: int
    shape: tuple[int, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    start: int = 0


@dataclass(frozen=True)
class RecordedAgents:
    """The agents in order: names (empty where they have none), keys in the file, what they see and do.

    Keys are empty for a dataset of one agent without entries of its own.
    """

    names: tuple[str, ...]
    obs_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    obs: tuple[FlatSpace, ...]
    action: tuple[Acts, ...]
    notes: tuple[str, ...]

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        return self.action[0].discrete

    @property
    def masked(self) -> bool:
        """Whether any agent's observations bring its legal actions along."""
        return self.discrete and any(seen.mask is not None for seen in self.obs)


def recorded_agents(metadata: dict[str, Any], order: Sequence[str], usual: Any = ()) -> RecordedAgents:
    """The team that a dataset's metadata describe.

    Args:
        metadata: of the dataset.
        order: names of the agents in the order wanted; empty: the usual order.
        usual: the order in which they were written, where it is known; otherwise natural order.

    Raises:
        DataError: no spaces, damaged ones, or such as no team has.
    """
    seen, done = (_space(metadata, name) for name in ("observation_space", "action_space"))
    try:
        team = _pair(seen, done, order, usual)
    except UnfitSpaceError as error:
        raise DataError(f"{error} (in {METADATA})") from error
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"a space in {METADATA} is damaged; fetch the data again") from error
    kinds = {acts.discrete for acts in team.action}
    require(len(kinds) == 1, "some agents have continuous actions, others discrete ones")
    return team


def _space(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    text = metadata.get(name)
    require(isinstance(text, str), f"{METADATA} has no {name}; save the dataset with Minari again")
    try:
        space = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} in {METADATA} is damaged; fetch the data again") from error
    require(isinstance(space, dict), f"{name} in {METADATA} is damaged; fetch the data again")
    found: dict[str, Any] = space
    return found


def _pair(seen: dict[str, Any], done: dict[str, Any], order: Sequence[str], usual: Any) -> RecordedAgents:
    if done["type"] not in _CONTAINERS:
        require(not order, "it has one agent, whose actions are one space; leave the option agents out")
        several = seen["type"] in _CONTAINERS
        note = "the parts of the one agent's observation are put end to end in the order of their keys"
        whole = (flat_space(seen, "observations"),), (_acts(done, "actions"),)
        return RecordedAgents((), (), (), *whole, notes=(note,) if several else ())
    require(
        seen["type"] in _CONTAINERS,
        f"its actions have the parts {_listed(done)}, its observations are one {seen['type']}; where the parts are "
        "agents, give each an observation of its own, else put them into one Box",
    )
    obs = parts(seen)
    acts = parts(done)
    notes: tuple[str, ...] = ()
    both = seen["type"] == done["type"] == "Dict"
    fits = set(obs) == set(acts) if both else len(obs) == len(acts)
    require(
        fits,
        f"its observations have the parts {_listed(seen)}, its actions {_listed(done)}; agents need the same keys in "
        "both. Parts of one robot's actions belong into one Box",
    )
    if seen["type"] != done["type"]:
        notes = (f"entry k of the {done['type']} of actions belongs to entry k of the {seen['type']} seen",)
    named = done if done["type"] == "Dict" else seen
    names = [str(key) for key in parts(named)] if named["type"] == "Dict" else []
    if not order and isinstance(usual, list) and sorted(map(str, usual), key=natural) == names:
        order = [str(name) for name in usual]
    places = _places(names, order, len(acts))
    obs_keys = list(obs)
    act_keys = list(acts)
    return RecordedAgents(
        tuple(names[k] for k in places) if names else (),
        tuple(in_file(obs_keys[k]) for k in places),
        tuple(in_file(act_keys[k]) for k in places),
        tuple(flat_space(obs[obs_keys[k]], f"observations/{obs_keys[k]}") for k in places),
        tuple(_acts(acts[act_keys[k]], f"actions/{act_keys[k]}") for k in places),
        notes,
    )


def _places(names: list[str], order: Sequence[str], count: int) -> list[int]:
    """Places of the agents in natural order, in the order wanted."""
    if not order:
        return list(range(count))
    known = ", ".join(names) or "without names"
    require(
        sorted(order, key=natural) == names,
        f"its agents are {known}; the option agents must list each of them once, not {', '.join(order)}",
    )
    return [names.index(name) for name in order]


def in_file(key: str | int) -> str:
    """How Minari names an entry of a ``Dict`` or ``Tuple`` in its file."""
    return key if isinstance(key, str) else f"_index_{key}"


def _listed(space: dict[str, Any]) -> str:
    return ", ".join(map(str, parts(space))) or "none"


def _acts(values: dict[str, Any], name: str) -> Acts:
    if values["type"] == "Discrete":
        none = np.zeros(0)
        return Acts(True, int(values["n"]), (), none, none, int(values.get("start", 0)))
    if values["type"] != "Box":
        raise UnfitSpaceError(
            f"{name} is of type {str(values['type'])[:40]}; agents act by a Box or a Discrete"
        )
    shape = tuple(int(n) for n in values["shape"])
    low, high = (np.asarray(values[bound], np.float64) for bound in ("low", "high"))
    require(low.shape == high.shape == shape, f"{name} has bounds of another shape than {shape}")
    return Acts(False, int(np.prod(shape)), shape, low.reshape(-1), high.reshape(-1))
