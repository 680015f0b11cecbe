"""A stand-in for the game behind ``StarCraft2Env``: the same interface and attributes, a toy battle inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from marlzoo.envs._smac_maps import MAPS

FIRST_TYPE = 1970  # allied types are numbered from here, as in the SMAC maps
ENEMY_TYPES = {"stalkers_and_zealots": (73, 74), "MMM": (51, 48, 54), "bane": (9, 105)}
MAP_TYPES = {"2s3z": "stalkers_and_zealots", "3s5z_vs_3s6z": "stalkers_and_zealots", "MMM2": "MMM"}
SHIELD = 50.0


@dataclass
class Point:
    x: float
    y: float


@dataclass
class Unit:
    unit_type: int
    pos: Point
    health: float
    health_max: float
    shield: float
    weapon_cooldown: float = 0.0
    energy: float = field(default=50.0)


class StarCraft2Env:
    """One game. ``failure`` is raised by the first reset, ``started`` counts games that were started."""

    failure: ClassVar[Exception | None] = None
    started: ClassVar[int] = 0
    overrides: ClassVar[dict[str, int]] = {}

    def __init__(
        self, map_name: str, difficulty: str, seed: int, continuing_episode: bool, **unknown: Any
    ) -> None:
        assert not unknown
        self.map = MAPS[map_name]
        self.seed, self.difficulty = seed, difficulty
        self.n_agents, self.n_enemies, self.episode_limit = self.map.allies, self.map.enemies, 30
        self.n_actions = 6 + self.n_enemies
        self.map_type, self.map_x, self.map_y = MAP_TYPES.get(map_name, "plain"), 32, 24
        self.max_distance_x, self.max_distance_y = 30, 20
        self.medivac_id = FIRST_TYPE + 2
        self._random, self._continuing = np.random.default_rng(seed), continuing_episode
        self.agents: dict[int, Unit] = {}
        self.enemies: dict[int, Unit] = {}
        self.launched = self.closed = False

    def get_env_info(self) -> dict[str, int]:
        return {
            "n_agents": self.n_agents,
            "n_actions": self.n_actions,
            "episode_limit": self.map.limit,
            "obs_shape": self.map.obs_size("original"),
            "state_shape": self.map.state_size("original"),
        } | self.overrides

    def reset(self) -> tuple[Any, Any]:
        if not self.launched:
            if self.failure is not None:
                raise self.failure
            type(self).started += 1
            self.launched = True
        self.time, self.last_action = 0, np.zeros((self.n_agents, self.n_actions))
        enemy_types = ENEMY_TYPES.get(self.map_type, (48,))
        for side, count, left in ((self.agents, self.n_agents, 10.0), (self.enemies, self.n_enemies, 16.0)):
            for k in range(count):
                kind = k % max(self.map.types, 1)
                here = Point(left + self._random.uniform(0, 5), 12 + self._random.uniform(-5, 5))
                name = FIRST_TYPE + kind if side is self.agents else enemy_types[kind]
                shield = SHIELD * self.map.shields[0 if side is self.agents else 1]
                side[k] = Unit(name, here, 40.0, 45.0, shield)
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert all(type(action) is int for action in actions)
        action_mask = self.get_avail_actions()
        assert all(action_mask[i][action] for i, action in enumerate(actions))
        self.last_action = np.eye(self.n_actions)[actions]
        self.time, reward = self.time + 1, 0.0
        for i, action in enumerate(actions):
            unit = self.agents[i]
            unit.weapon_cooldown = max(0.0, unit.weapon_cooldown - 1)
            if 2 <= action < 6:
                dx, dy = ((0, 1), (0, -1), (1, 0), (-1, 0))[action - 2]
                unit.pos = Point(unit.pos.x + 2 * dx, unit.pos.y + 2 * dy)
            elif action >= 6 and not self._heals(unit):
                reward += self._hit(self.enemies[action - 6], 9.0)
                unit.weapon_cooldown = 7.0
        for enemy in self.enemies.values():
            targets = [u for u in self.agents.values() if u.health > 0]
            if enemy.health > 0 and targets:
                self._hit(targets[int(self._random.integers(len(targets)))], 4.0)
        won = all(u.health <= 0 for u in self.enemies.values())
        lost = all(u.health <= 0 for u in self.agents.values())
        info: dict[str, Any] = {"battle_won": won}
        if won:
            reward += 10
        late = self.time >= self.episode_limit and not (won or lost)
        if late and self._continuing:
            info["episode_limit"] = True
        return reward, won or lost or late, info

    def _hit(self, unit: Unit, damage: float) -> float:
        taken = min(unit.shield, damage)
        unit.shield -= taken
        unit.health = max(0.0, unit.health - (damage - taken))
        return 0.1

    def _heals(self, unit: Unit) -> bool:
        return self.map_type == "MMM" and unit.unit_type == self.medivac_id

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_avail_agent_actions(self, agent: int) -> list[int]:
        unit = self.agents[agent]
        action_mask = [0] * self.n_actions
        if unit.health <= 0:
            action_mask[0] = 1
            return action_mask
        action_mask[1] = 1
        action_mask[2:6] = [unit.pos.y < 22, unit.pos.y > 2, unit.pos.x < 30, unit.pos.x > 2]
        targets = self.agents if self._heals(unit) else self.enemies
        for k, other in targets.items():
            able = other.health > 0 and not (self._heals(unit) and self._heals(other))
            action_mask[6 + k] = int(
                able and math.dist((unit.pos.x, unit.pos.y), (other.pos.x, other.pos.y)) <= 6
            )
        return [int(flag) for flag in action_mask]

    def get_obs(self) -> list[Any]:
        marks = np.arange(self.map.obs_size("original"))
        return [(marks + i + self.time).astype(np.float32) for i in range(self.n_agents)]

    def get_state(self) -> Any:
        return np.arange(self.map.state_size("original"), dtype=np.float32) - self.time

    def unit_sight_range(self, agent: int) -> int:
        return 9

    def unit_max_cooldown(self, unit: Unit) -> int:
        return 200 if self._heals(unit) else 15

    def unit_max_shield(self, unit: Unit) -> float | None:
        return SHIELD if unit.shield >= 0 and 1 in self.map.shields else None

    def get_unit_type_id(self, unit: Unit, ally: bool) -> int:
        if ally:
            return unit.unit_type - FIRST_TYPE
        return ENEMY_TYPES[self.map_type].index(unit.unit_type)

    def save_replay(self) -> None:
        self.saved = True

    def close(self) -> None:
        self.closed = True
