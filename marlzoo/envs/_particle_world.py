"""Physics, rewards and observations of the particle world as OMAR's code has them, for E copies at once.

The published numbers of OMAR and its successors come from a changed copy of the multi-agent particle
environments. It differs from later packages: a two-dimensional force is the action; acceleration is applied
twice; velocity is updated before position; spread pays the inverse distance; predators are paid for being near.

Arrays carry entities first and copies last, ``[entities, 2, E]`` float64, so that every operation runs over
contiguous copies. Positions are in the units of the world, whose visible part is [-1, 1]^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
# Beyond this gap, 50 margins wide, the force of contact is below 1e-20 and left out.
REACH = 50 * CONTACT_MARGIN


@dataclass(frozen=True)
class Scenario:
    """One game of the particle world.

    Attributes:
        name: of the original scenario, for instance ``simple_tag``.
        radius: of each agent; the prey, where there is one, is the last.
        gain: force per unit of action, of each agent.
        top_speed: of each agent, or None.
        landmark_radius: of each landmark.
        solid: whether agents collide with each landmark.
        spawn: landmarks start uniform in [-spawn, spawn]^2, agents in [-1, 1]^2.
        prey: whether the last agent is a prey that the environment moves.
        food, forest: numbers of the landmarks that are food, and that hide agents.
        touch: pay of the predators for every predator that touches the prey.
        bound_weight: weight of the prey's cost of leaving the visible part.
    """

    name: str
    radius: tuple[float, ...]
    gain: tuple[float, ...]
    top_speed: tuple[float, ...] | None
    landmark_radius: tuple[float, ...]
    solid: tuple[bool, ...]
    spawn: float
    prey: bool = False
    food: tuple[int, ...] = ()
    forest: tuple[int, ...] = ()
    touch: float = 0.0
    bound_weight: float = 1.0

    @property
    def agents(self) -> int:
        """Agents, the prey included."""
        return len(self.radius)

    @property
    def learners(self) -> int:
        """Agents whose actions are given from outside."""
        return self.agents - self.prey

    @property
    def landmarks(self) -> int:
        """Landmarks of all kinds."""
        return len(self.landmark_radius)

    @cached_property
    def radii(self) -> Array:
        """Radii of all entities, agents first."""
        return np.array([*self.radius, *self.landmark_radius])

    @cached_property
    def pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Entities that can collide and of which at least one moves: ``(i, j)`` with i an agent."""
        solid = [*range(self.agents), *(self.agents + k for k, s in enumerate(self.solid) if s)]
        listed = [(i, j) for i in range(self.agents) for j in solid if j > i]
        i, j = np.array(listed).T
        return i, j

    @cached_property
    def columns(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of :meth:`World.rows` whose difference makes each entry of all agents' observations.

        Per agent: velocity, position, landmarks and other agents relative to it, then (spread) four zeros of
        unused messages, (predators) the prey's velocity, (world) whether it is in each forest. ``[sum of sizes]``.
        """
        n = self.agents
        m = self.landmarks
        zero = 4 * n + 2 * m
        flags = 4 * n + 2 * m + 1
        plus: list[int] = []
        minus: list[int] = []
        for i in range(n):
            velocity = [2 * i, 2 * i + 1]
            position = [2 * (n + i), 2 * (n + i) + 1]
            others = [2 * (n + k) + c for k in (*range(n, n + m), *range(n)) if k != i for c in (0, 1)]
            alone = [zero] * 4 if not self.prey else []
            if self.prey and i < n - 1:
                alone += [2 * (n - 1), 2 * (n - 1) + 1]
            alone += [flags + i * len(self.forest) + k for k in range(len(self.forest))]
            plus += [*velocity, *position, *others, *alone]
            minus += [zero] * 4 + position * (len(others) // 2) + [zero] * len(alone)
        return np.array(plus), np.array(minus)

    @cached_property
    def obs_sizes(self) -> tuple[int, ...]:
        """Observation size of each agent, the prey included."""
        n = self.agents
        m = self.landmarks
        common = 4 + 2 * m + 2 * (n - 1) + len(self.forest)
        if not self.prey:
            return (common + 4,) * n
        return (common + 2,) * (n - 1) + (common,)


SPREAD = Scenario(
    name="simple_spread",
    radius=(0.15,) * 3,
    gain=(5.0,) * 3,
    top_speed=None,
    landmark_radius=(0.05,) * 3,
    solid=(False,) * 3,
    spawn=1.0,
)
TAG = Scenario(
    name="simple_tag",
    radius=(0.075,) * 3 + (0.05,),
    gain=(9.0,) * 3 + (16.0,),  # squares of the accelerations 3 and 4: the original applies them twice
    top_speed=(1.0,) * 3 + (1.3,),
    landmark_radius=(0.2,) * 2,
    solid=(True,) * 2,
    spawn=0.9,
    prey=True,
    touch=10.0,
)
WORLD = Scenario(
    name="simple_world",
    radius=(0.075,) * 3 + (0.045,),
    gain=(9.0,) * 3 + (16.0,),
    top_speed=(1.0,) * 3 + (1.3,),
    landmark_radius=(0.2, 0.03, 0.03, 0.3, 0.3),
    solid=(True, False, False, False, False),
    spawn=0.9,
    prey=True,
    food=(1, 2),
    forest=(3, 4),
    touch=5.0,
    bound_weight=2.0,
)


class World:
    """States of E copies: ``velocity [agents, 2, E]``, ``position [agents + landmarks, 2, E]``.

    Both are views of one array ``rows [D, E]``, which also holds a row of zeros and the forests' flags, and from
    which observations are taken.
    """

    def __init__(self, scenario: Scenario, num_envs: int) -> None:
        s = self.scenario = scenario
        n = s.agents
        m = s.landmarks
        self._place(np.zeros((4 * n + 2 * m + 1 + n * len(s.forest), num_envs)))
        self._gain = np.array(s.gain)[:, None, None]
        self._top = None if s.top_speed is None else np.array(s.top_speed)[:, None]
        i, j = s.pairs
        self._contact = (s.radii[i] + s.radii[j])[:, None]

    def _place(self, rows: Array) -> None:
        s = self.scenario
        num_envs = rows.shape[1]
        n = s.agents
        m = s.landmarks
        self.rows = rows
        self.velocity: Array = rows[: 2 * n].reshape(n, 2, num_envs)
        self.position: Array = rows[2 * n : 4 * n + 2 * m].reshape(n + m, 2, num_envs)
        self._flags: Array = rows[4 * n + 2 * m + 1 :].reshape(n, len(s.forest), num_envs)

    def take(self, ids: NDArray[np.intp]) -> World:
        """Some copies, as a world of their own."""
        part = World.__new__(World)
        part.__dict__.update(self.__dict__)
        part._place(np.ascontiguousarray(self.rows[:, ids]))
        return part

    def put(self, ids: NDArray[np.intp], part: World) -> None:
        """Copies that :meth:`take` took, put back."""
        self.rows[:, ids] = part.rows

    def start(self, chance: Array) -> None:
        """New positions from numbers ``[2 * (agents + landmarks), E]`` uniform on [0, 1); nothing moves."""
        n = self.scenario.agents
        self.velocity[:] = 0
        place = 2 * chance.reshape(self.position.shape) - 1
        self.position[:n] = place[:n]
        self.position[n:] = self.scenario.spawn * place[n:]
        self.mark_forests()

    def recover(self, obs: Array) -> None:
        """Take the state from the learners' observations ``[learners, O, E]``.

        Velocities and positions of learners from their own, everything else from the first agent's.
        """
        n = self.scenario.agents
        m = self.scenario.landmarks
        k = self.scenario.learners
        self.velocity[:k] = obs[:, :2]
        self.position[:k] = obs[:, 2:4]
        relative = obs[0, 4 : 4 + 2 * (m + n - 1)].reshape(m + n - 1, 2, -1)
        self.position[n:] = self.position[0] + relative[:m]
        if self.scenario.prey:
            self.position[k] = self.position[0] + relative[-1]
            after = 4 + 2 * (m + n - 1)
            self.velocity[k] = obs[0, after : after + 2]
        self.mark_forests()

    def mark_forests(self) -> None:
        """Update the forest flags: +1 for an agent in a forest, otherwise -1."""
        s = self.scenario
        if s.forest:
            trees = [s.agents + k for k in s.forest]
            near = self._distance(slice(0, s.agents), trees) < _sums(s.radii[: s.agents], s.radii[trees])
            self._flags[:] = np.where(near, 1.0, -1.0)

    def step(self, action: Array) -> None:
        """One step under forces ``[agents, 2, E]`` in [-1, 1]."""
        force = self._gain * action
        self._collide(force)
        v = self.velocity
        v *= 1 - DAMPING
        force *= DT
        v += force
        if self._top is not None:
            speed = np.sqrt(v[:, 0] ** 2 + v[:, 1] ** 2)
            fast = speed > self._top
            if fast.any():
                v *= np.where(fast, self._top / np.where(fast, speed, 1.0), 1.0)[:, None]
        self.position[: self.scenario.agents] += DT * v
        self.mark_forests()

    def _collide(self, force: Array) -> None:
        """Add to ``force`` a soft repulsion along the line between the centers of entities that (nearly) touch."""
        i, j = self.scenario.pairs
        delta = self.position[i] - self.position[j]
        square = delta[:, 0] ** 2 + delta[:, 1] ** 2
        near, copy = np.nonzero(square < np.square(self._contact + REACH))
        if not len(near):
            return
        distance = np.sqrt(square[near, copy])
        gap = distance - self._contact[near, 0]
        push = CONTACT_FORCE * CONTACT_MARGIN * np.logaddexp(0.0, -gap / CONTACT_MARGIN)
        # Centers that coincide have no direction (the original divides by zero): nothing is pushed.
        along = delta[near, :, copy] * (push / np.maximum(distance, 1e-300))[:, None]
        first = i[near]
        second = j[near]
        moves = second < self.scenario.agents
        for c in (0, 1):
            np.add.at(force[:, c], (first, copy), along[:, c])
            np.subtract.at(force[:, c], (second[moves], copy[moves]), along[moves, c])

    def observations(self) -> Array:
        """All agents' observations end to end, ``[sum of sizes, E]``."""
        plus, minus = self.scenario.columns
        return self.rows[plus] - self.rows[minus]

    def reward(self) -> Array:
        """Reward of the learners: ``[learners, E]`` in spread, one row for all predators in the others."""
        return self._hunt() if self.scenario.prey else self._cover()

    def _cover(self) -> Array:
        """Spread: for each landmark the inverse distance of the nearest agent, at most 10; -5 per overlap."""
        s = self.scenario
        n = s.agents
        nearest = self._distance(slice(0, n), list(range(n, n + s.landmarks))).min(axis=0)
        covered = np.minimum(1.0 / np.maximum(nearest, 1e-300), 10.0).sum(axis=0)
        overlap = self._distance(slice(0, n), list(range(n))) < _sums(s.radii[:n], s.radii[:n])
        return np.asarray(covered - 5.0 * (overlap.sum(axis=1) - 1))

    def _hunt(self) -> Array:
        distance, touching = self._to_prey()
        return np.asarray((self.scenario.touch * touching.sum(axis=0) - 0.1 * distance.sum(axis=0))[None])

    def prey_reward(self) -> Array:
        """Reward ``[E]`` of the prey: far from predators, untouched, in view, and (world) fed."""
        s = self.scenario
        distance, touching = self._to_prey()
        reward = 0.1 * distance.sum(axis=0) - s.touch * touching.sum(axis=0)
        reward -= s.bound_weight * _out_of_view(np.abs(self.position[s.agents - 1])).sum(axis=0)
        if s.food:
            meals = [s.agents + k for k in s.food]
            prey = slice(s.agents - 1, s.agents)
            away = self._distance(prey, meals)[0]
            eaten = away < _sums(s.radii[prey], s.radii[meals])[0]
            reward += 2.0 * eaten.sum(axis=0) + 0.05 * away.min(axis=0)
        return np.asarray(reward)

    def _to_prey(self) -> tuple[Array, NDArray[np.bool_]]:
        """Distances of the predators to the prey ``[predators, E]``, and whether they touch it."""
        s = self.scenario
        delta = self.position[: s.learners] - self.position[s.agents - 1]
        distance = np.sqrt(delta[:, 0] ** 2 + delta[:, 1] ** 2)
        return distance, distance < (s.radii[: s.learners] + s.radii[s.agents - 1])[:, None]

    def _distance(self, some: slice, others: list[int]) -> Array:
        delta = self.position[some, None] - self.position[None, others]
        return np.sqrt(delta[:, :, 0] ** 2 + delta[:, :, 1] ** 2)


def _sums(some: Array, others: Array) -> Array:
    return (some[:, None] + others)[:, :, None]


def _out_of_view(x: Array) -> Array:
    """Cost of a coordinate's absolute value: 0 to 0.9, linear to 1, exponential from there, at most 10."""
    beyond = np.minimum(np.exp(np.minimum(2 * x - 2, 3.0)), 10.0)
    return np.where(x < 0.9, 0.0, np.where(x < 1.0, 10 * (x - 0.9), beyond))
