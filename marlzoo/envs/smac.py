"""Family ``smac``: the StarCraft Multi-Agent Challenge, for those who have the game.

Needs the ``smac`` package of its authors (not the package of that name on PyPI), StarCraft II and the SMAC maps;
:data:`REMEDY` says how to get them. Nothing is imported before an environment is made, and the game starts at the
first reset. Every copy is a process of the game of its own: make few.

Two flavors, by the option ``flavor``:

- ``mappo`` (default): observations with agent numbers and last actions, and each agent's own state, as in the MAPPO
  code, on which OMIGA's and MADT's data were recorded (see :mod:`marlzoo.envs._smac_units`). The state is the
  agents' states one after another;
- ``original``: observations and state of the SMAC package, as in OG-MARL's data.

Actions: 0 nothing (the dead only), 1 stop, 2 to 5 move north, south, east, west, 6 + j attack enemy j (in MMM maps
a medivac heals ally j). One team reward, scaled to a maximum of about 20. Seeds take effect by starting the game
anew, at a copy's next reset.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._smac_maps import FLAVORS, MAPS, Flavor, Map
from marlzoo.envs._smac_units import Scene, read_units, states, unit_observations
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import ConfigError, MissingSimulatorError, SpecError, UnknownNameError, pip_install
from marlzoo.spec import Spec

FAMILY = "smac"
TASKS: tuple[str, ...] = tuple(MAPS)
OPTIONS = ("flavor", "difficulty")
ALTERNATIVES = {"flavor": FLAVORS}  # options that change the shape
DIFFICULTIES = "123456789A"  # of the built-in opponent, as the smac package names them
MODULE = "smac.env.starcraft2.starcraft2"
PACKAGE = pip_install("git+https://github.com/oxwhirl/smac.git", "protobuf<3.21")
REMEDY = (
    f"install the package ({PACKAGE}), the game (Blizzard's StarCraft II for Linux, version 4.10, unpacked to "
    "~/StarCraftII or where SC2PATH points) and the maps (SMAC_Maps.zip of that repository's releases, unpacked to "
    "StarCraftII/Maps)"
)


def spec(name: str, **options: Any) -> Spec:
    """The shape of the task ``name`` (without family); options as in :func:`make`.

    Raises:
        UnknownNameError: an unknown map or option.
        ConfigError: an option out of its range.
    """
    chart, flavor = _chosen(name, options)
    own = chart.state_size(flavor)
    return Spec(
        n_agents=chart.allies,
        obs_size=chart.obs_size(flavor),
        state_size=own if flavor == "original" else chart.allies * own,
        action_kind="discrete",
        action_size=chart.actions,
        horizon=chart.limit,
    )


def make(name: str, num_envs: int, **options: Any) -> SMAC:
    """E copies of the map ``name``.

    Args:
        name: one of :data:`TASKS`.
        num_envs: number of copies E, each a process of the game.
        options: ``flavor`` (``mappo`` or ``original``); ``difficulty`` of the built-in opponent, ``1`` to ``A``
            (``7``, very hard, is what everybody uses).

    Raises:
        UnknownNameError: an unknown map or option.
        ConfigError: an option out of its range.
        MissingSimulatorError: the package is missing, or another one of the same name is installed.
    """
    chart, flavor = _chosen(name, options)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ConfigError(f"{FAMILY}/{name}: num_envs is {num_envs!r}; it must be a positive integer")
    return SMAC(
        name, chart, flavor, spec(name, **options), int(num_envs), str(options.get("difficulty", "7"))
    )


def _chosen(name: str, options: dict[str, Any]) -> tuple[Map, Flavor]:
    if name not in MAPS:
        raise UnknownNameError(f"{FAMILY} map", name, MAPS)
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"option of {FAMILY}/{name}", option, OPTIONS)
    flavor = options.get("flavor", "mappo")
    if flavor not in FLAVORS:
        raise ConfigError(f"{FAMILY}/{name}: flavor must be {' or '.join(FLAVORS)}, got {flavor!r}")
    difficulty = options.get("difficulty", "7")
    if str(difficulty) not in tuple(DIFFICULTIES):
        raise ConfigError(
            f"{FAMILY}/{name}: difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}"
        )
    return MAPS[name], flavor


def require_smac() -> Any:
    """The class ``StarCraft2Env``.

    Raises:
        MissingSimulatorError: the package is missing or another one of the same name, or fails to import.
    """
    if importlib.util.find_spec("smac") is None:
        raise MissingSimulatorError(
            f"{FAMILY} tasks need StarCraft II and the smac package, which is missing: {REMEDY}"
        )
    try:
        found = importlib.util.find_spec("smac.env.starcraft2") is not None
    except ImportError:
        found = False
    if not found:
        raise MissingSimulatorError(
            "the installed package 'smac' is another one of the same name (PyPI's tunes hyper-parameters): "
            f"pip uninstall smac, then {PACKAGE}"
        )
    try:
        return importlib.import_module(MODULE).StarCraft2Env
    except Exception as error:  # pysc2 and protobuf fail in several ways
        raise MissingSimulatorError(
            f"the smac package cannot be imported ({_in_words(error)}); reinstall it: {PACKAGE}"
        ) from error


class SMAC(BatchedEnv):
    """E copies of one map; made by :func:`make`.

    Copies start with the seeds 0, 1, .... ``info["win"] [E]`` says that the battle was won with this step.
    ``info["broken"] [E]`` marks copies whose game lost its connection in this step; their episode ends as
    truncated, before its time limit.
    """

    can_win = True

    def __init__(
        self, name: str, chart: Map, flavor: Flavor, shape: Spec, num_envs: int, difficulty: str
    ) -> None:
        self.task = f"{FAMILY}/{name}"
        self.spec = shape
        self.num_envs = num_envs
        self.map = chart
        self.flavor = flavor
        self._options = {"map_name": name, "difficulty": difficulty, "continuing_episode": True}
        self._class = require_smac()
        self.metadata = {"engine": "StarCraft II", "flavor": flavor, "difficulty": difficulty}
        self.games: list[Any] = [None] * num_envs
        n = shape.n_agents
        self._obs = np.zeros((num_envs, n, shape.obs_size), np.float32)
        self._state = np.zeros((num_envs, shape.state_size), np.float32)
        self._masks = np.zeros((num_envs, n, shape.action_size), np.bool_)
        self._masks[..., 0] = True
        self.seed(range(num_envs))

    def seed(self, seeds: Sequence[int]) -> None:  # noqa: D102
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{self.task}: {self.num_envs} copies need as many seeds, got {len(seeds)}")
        self._seeds = [int(seed) % 2**31 for seed in seeds]
        self._stale = [True] * self.num_envs

    def reset(self, ids: Ids | None = None) -> Observation:
        """Start new episodes in the copies ``ids`` (all when None).

        Raises:
            MissingSimulatorError: the game or the map is missing.
            SpecError: the installed package describes the map otherwise than this one.
        """
        for copy in range(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp)).tolist():
            if self._stale[copy]:
                self._launch(copy)
            else:
                self.games[copy].reset()
            self._look(copy)
        return Observation(*self._shown())

    def _launch(self, copy: int) -> None:
        if self.games[copy] is not None:
            self.games[copy].close()
        self.games[copy] = None
        game = self._class(seed=self._seeds[copy], **self._options)
        self._require_same_map(game.get_env_info())
        try:
            game.reset()
        except Exception as error:  # pysc2 raises many kinds
            raise _launch_error(self.task, error) from error
        self.games[copy] = game
        self._stale[copy] = False

    def _require_same_map(self, info: dict[str, Any]) -> None:
        original = self.flavor == "original"
        mine = {
            "n_agents": self.map.allies,
            "n_actions": self.map.actions,
            "episode_limit": self.map.limit,
            "obs_shape": self.map.obs_size("original"),
            "state_shape": self.map.state_size("original"),
        }
        wrong = [
            f"{k}: {info[k]} != {v}"
            for k, v in mine.items()
            if info[k] != v and (original or "shape" not in k)
        ]
        if wrong:
            raise SpecError(
                f"{self.task}: the installed smac package describes the map otherwise ({'; '.join(wrong)}); {PACKAGE}"
            )

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` by one step under ``action [E, N]``.

        Raises:
            SpecError: wrong shape or an illegal action; nothing has been stepped then.
        """
        rows = np.arange(self.num_envs) if ids is None else np.unique(np.asarray(ids, np.intp))
        if action.shape != (self.num_envs, self.spec.n_agents):
            raise SpecError(
                f"{self.task}: actions must have shape {(self.num_envs, self.spec.n_agents)}, got {action.shape}"
            )
        self._refuse(action, rows)
        reward = np.zeros(self.num_envs, np.float32)
        terminal, truncated, win, broken = np.zeros((4, self.num_envs), np.bool_)
        for copy in rows.tolist():
            earned, over, info = self.games[copy].step(action[copy].tolist())
            reward[copy] = earned
            broken[copy] = over and not info  # how the package tells a lost connection
            truncated[copy] = over and (broken[copy] or bool(info.get("episode_limit", False)))
            terminal[copy] = over and not truncated[copy]
            win[copy] = bool(info.get("battle_won", False))
            if not broken[copy]:
                self._look(copy)
        info_arrays = {"win": win, "broken": broken}
        return Step(*self._shown(), reward=reward, terminal=terminal, truncated=truncated, info=info_arrays)

    def _refuse(self, action: NDArray[Any], rows: Ids) -> None:
        taken = action[rows]
        inside = (taken >= 0) & (taken < self.spec.action_size)
        action_mask = np.take_along_axis(self._masks[rows], np.where(inside, taken, 0)[..., None], -1)[..., 0]
        if not (action_mask & inside).all():
            k, agent = np.argwhere(~(action_mask & inside))[0]
            raise SpecError(
                f"{self.task}: agent {agent} of copy {rows[k]} took the action {taken[k, agent]}, which is not "
                f"legal there; legal are {np.flatnonzero(self._masks[rows[k], agent]).tolist()}"
            )

    def _look(self, copy: int) -> None:
        """Take what one copy shows."""
        game = self.games[copy]
        action_mask = self._masks[copy] = np.array(game.get_avail_actions(), np.bool_)
        if self.flavor == "original":
            self._obs[copy] = game.get_obs()
            self._state[copy] = game.get_state()
            return
        ally, enemy = self.map.shields
        types = self.map.types
        scene = Scene(
            read_units(game, True, types, bool(ally)),
            read_units(game, False, types, bool(enemy)),
            np.array([game.unit_sight_range(i) for i in range(self.map.allies)], np.float64),
            action_mask,
            np.asarray(game.last_action, np.float64),
            self.map.shields,
        )
        self._obs[copy] = unit_observations(scene)
        self._state[copy] = states(scene).ravel()

    def _shown(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        return self._obs.copy(), self._state.copy(), self._masks.copy()

    def save_replay(self, copy: int = 0) -> None:
        """Write the replay of a copy's episode where the game keeps its replays."""
        self.games[copy].save_replay()

    def close(self) -> None:
        """End all games."""
        for game in self.games:
            if game is not None:
                game.close()
        self.games = [None] * self.num_envs
        self._stale = [True] * self.num_envs


def _launch_error(task: str, error: Exception) -> MissingSimulatorError:
    name = type(error).__name__
    text = _first_line(error)
    if name == "NoMapError" or "SC2Map" in text or "map" in text.lower().split():
        what = f"the map of {task} is missing ({text}); unpack SMAC_Maps.zip to StarCraftII/Maps"
    else:
        what = f"StarCraft II did not start ({_in_words(error)}); {REMEDY}"
    return MissingSimulatorError(what)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]  # protobuf and pysc2 tell stories


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"
