"""Observations and per-agent states of the MAPPO code's SMAC, composed from the game's units.

An agent's vector is: a row per other ally, a row per enemy, four flags of possible moves, its own row, its one-hot
number. Rows, in this order (x, y and distances relative to the agent and divided by its sight range; centered
coordinates relative to the middle of the map and divided by the playable size):

============  ==========================================================================================
ally          visible, distance, x, y, [cooldown], health, shield, [centered x, y], type, last action
enemy         attackable, distance, x, y, [visible], health, shield, type, [centered x, y]
own           1, 0, 0, 0, health, shield, [centered x, y], type, last action
============  ==========================================================================================

Entries in brackets are the state's alone. Units that are dead are rows of zeros; in the observation, so are those
out of sight. An agent that is dead sees zeros and its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """One side: ``place [k, 2]`` in the map's units; ``health``, ``shield``, ``cooldown [k]`` as shares of their
    maxima; ``alive [k]``; ``kind [k, types]`` one-hot; ``centered [k, 2]``.
    """

    place: Array
    health: Array
    shield: Array
    cooldown: Array
    alive: NDArray[np.bool_]
    kind: Array
    centered: Array


def read_units(game: Any, ally: bool, types: int, shield: bool) -> Units:
    """Units of one side of a ``StarCraft2Env``."""
    units = list((game.agents if ally else game.enemies).values())
    alive = np.array([unit.health > 0 for unit in units])
    place = np.array([[unit.pos.x, unit.pos.y] for unit in units], np.float64)
    kind = np.zeros((len(units), types))
    if types:
        kind[np.arange(len(units)), [game.get_unit_type_id(unit, ally) for unit in units]] = 1
    middle = np.array([game.map_x, game.map_y]) / 2
    shields = [unit.shield / game.unit_max_shield(unit) if shield else 0.0 for unit in units]
    return Units(
        place,
        np.array([unit.health / unit.health_max for unit in units]),
        np.array(shields),
        np.array([_cooldown(game, unit) if ally else 0.0 for unit in units]),
        alive,
        kind,
        (place - middle) / np.array([game.max_distance_x, game.max_distance_y]),
    )


def _cooldown(game: Any, unit: Any) -> float:
    """Share of the weapon's cooldown; a medivac's energy instead."""
    medivac = game.map_type == "MMM" and unit.unit_type == game.medivac_id
    return float((unit.energy if medivac else unit.weapon_cooldown) / game.unit_max_cooldown(unit))


@dataclass(frozen=True)
class Scene:
    """All that the vectors are made of.

    Attributes:
        allies, enemies: both sides.
        sight: sight range of each ally ``[n]``.
        action_mask: legal actions ``[n, A]``.
        last: one-hot last actions ``[n, A]``.
        shields: entries for the shield of an ally and of an enemy.
    """

    allies: Units
    enemies: Units
    sight: Array
    action_mask: NDArray[np.bool_]
    last: Array
    shields: tuple[int, int]


def unit_observations(scene: Scene) -> NDArray[np.float32]:
    """``[n, O]``."""
    return _compose(scene, state=False)


def states(scene: Scene) -> NDArray[np.float32]:
    """Each agent's own state ``[n, S]``."""
    return _compose(scene, state=True)


def _compose(scene: Scene, state: bool) -> NDArray[np.float32]:
    a = scene.allies
    e = scene.enemies
    n = len(scene.sight)
    near_a, rows_a = _relative(scene, a)
    near_e, rows_e = _relative(scene, e)
    ally_shield, enemy_shield = (
        units.shield[:, None][:, :k] for units, k in zip((a, e), scene.shields, strict=True)
    )
    extra_a = (a.centered,) if state else ()
    ally_body = (a.health[:, None], ally_shield, *extra_a, a.kind, scene.last)
    ally = np.concatenate(
        [near_a[..., None], rows_a, *_spread(n, *((a.cooldown[:, None],) if state else ()), *ally_body)],
        axis=2,
    )
    attackable = (
        scene.action_mask[:, -len(e.alive) :, None] * near_e[..., None]
        if not state
        else (scene.action_mask[:, -len(e.alive) :, None])
    )
    enemy_body = (e.health[:, None], enemy_shield, e.kind, *((e.centered,) if state else ()))
    enemy = np.concatenate(
        [attackable, rows_e, *((near_e[..., None],) if state else ()), *_spread(n, *enemy_body)], axis=2
    )
    ally *= (a.alive & (near_a if not state else True))[..., None]
    enemy *= (e.alive & (near_e if not state else True))[..., None]
    others = ally[~np.eye(n, dtype=bool)].reshape(n, -1)
    own = np.concatenate([np.tile([1.0, 0, 0, 0], (n, 1)), *ally_body], axis=1)
    seen = (
        np.concatenate([others, enemy.reshape(n, -1), scene.action_mask[:, 2:6], own], axis=1)
        * a.alive[:, None]
    )
    return np.concatenate([seen, np.eye(n)], axis=1).astype(np.float32)


def _relative(scene: Scene, units: Units) -> tuple[NDArray[np.bool_], Array]:
    """Whether each ally is near enough to see each unit ``[n, k]``; distance and offset of it ``[n, k, 3]``."""
    offset = units.place - scene.allies.place[:, None]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    rows = np.concatenate([distance[..., None], offset], axis=2) / scene.sight[:, None, None]
    return distance < scene.sight[:, None], rows


def _spread(n: int, *columns: Array) -> list[Array]:
    """Columns ``[k, c]`` of units, for each of n observers."""
    return [np.broadcast_to(column, (n, *column.shape)) for column in columns]
