"""Dyna: any method that learns from transitions, trained on a mixture of the data and of a world model's steps.

As in MOMA-PPO's release (Barde et al. 2024, arXiv 2305.17198): the losses stay, only the batch changes. After the
world model's stage, and ``dyna_start`` updates on the data alone, every update

1. takes one model step in each of ``dyna_starts`` chains, with the present policies' (noisy) actions. A chain begins
   in a state of the data and restarts where the model says that the episode ends, or after ``dyna_horizon`` steps.
   All members are used, and none is clipped to the data: the next frame is that of one drawn at random, the team
   reward is the least of all members', less ``dyna_penalty`` (u_rew + u_alea);
2. puts these steps into a buffer of the last ``dyna_buffer`` ones;
3. lets the method learn from a batch each of whose rows is of the data with probability ``dyna_share`` and else of
   the buffer. Until the buffer is full all rows are of the data.

With ``world_model = FILE`` the first stage is left out: all replicas start from the model that ``marlzoo data model``
wrote there.

Departures from the release: there 256 chains make all their ten steps at every tenth update, which gives as many
steps per update, with policies up to nine updates older; the share is constant, also after ``dyna_start``.

Shapes: R replicas, B rows of a batch, S chains, M rows of the buffer, D entries of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import make_dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch, take_rows
from marlzoo.config import Config
from marlzoo.errors import ConfigError, DataError
from marlzoo.models.settings import DynaConfig, world_model_ignores
from marlzoo.models.world_model import WorldModel
from marlzoo.registry import DYNA
from marlzoo.replicas import GivenRandom, Kind, RecordedDraws
from marlzoo.spec import Spec

KNOWN = {"obs", "state", "action", "action_mask", "reward", "agent_reward", "mask"}


@cache
def with_dyna(cls: type[Algorithm]) -> type[Algorithm]:
    """The Dyna form of a method.

    Raises:
        ConfigError: the method learns online, from a world model of its own, or in stages.
    """
    name = cls.__module__.rpartition(".")[2]
    if cls.sampling == "online" or cls.stages is not Algorithm.stages:
        raise ConfigError(
            f"{name} has no Dyna form: it must learn from logged transitions, and in one stage; leave --dyna out"
        )
    about = {
        "__module__": cls.__module__,
        "__doc__": f"Dyna form of {cls.__name__}; see marlzoo.models.dyna.",
    }
    settings = make_dataclass(
        f"Dyna{cls.config_class.__name__}", [], bases=(cls.config_class, DynaConfig), frozen=True
    )
    settings.__module__ = cls.config_class.__module__
    return type(f"Dyna{cls.__name__}", (Dyna, cls), {**about, "config_class": cast(type[Config], settings)})


class Dyna(Algorithm):
    """World model, chains and buffer that the Dyna form adds to a method; see the module and :func:`with_dyna`."""

    config: Any
    chain: Tensor
    age: Tensor
    pushed: Tensor

    @property
    def name(self) -> str:
        """That of the method, marked as its Dyna form."""
        return DYNA + super().name

    def build(self, spec: Spec) -> None:
        """The method's networks, then the world model, the chains and the buffer."""
        super().build(spec)  # type: ignore[safe-super] # the method's own
        c = self.config
        self._require(c)
        self.dyna_world = WorldModel(self.init, spec, c, state="state" in self.fields)
        self.add_optimizer(lr={"dyna_world": "model_lr"}, dyna_world=self.dyna_world)
        self._own_fields = self.fields
        self.fields = tuple(dict.fromkeys((*self.fields, *self.dyna_world.fields)))
        self._shapes: dict[str, tuple[int, ...]] = {
            "frame": (self.dyna_world.size,),
            "next_frame": (self.dyna_world.size,),
            "action": spec.layout()["action"].shape,
        }
        self._shapes |= {"agent_reward": (spec.n_agents,), "mask": ()}
        self.register_buffer("chain", self.init.constant(0.0, c.dyna_starts, self.dyna_world.size).data)
        self.register_buffer("age", self.init.constant(c.dyna_horizon, c.dyna_starts).data.long())
        self.register_buffer("pushed", self.init.constant(0.0).data.long())
        for name, shape in self._shapes.items():
            kept = self.init.constant(0.0, c.dyna_buffer, *shape).data
            self.register_buffer(f"kept_{name}", kept.long() if name == "action" and spec.discrete else kept)

    def _require(self, c: Any) -> None:
        remedy = "take history=mlp, or leave --dyna out" if hasattr(c, "history") else "leave --dyna out"
        if self.sampling != "transition" or not {f.removeprefix("next_") for f in self.fields} <= KNOWN:
            raise ConfigError(
                f"{self.name}: this form learns from sequences, or from more than transitions have; {remedy}"
            )
        if "next_action" in self.fields:
            raise ConfigError(
                f"{self.name}: the method learns from the data's next actions; leave --dyna out"
            )
        if c.reward_mode != "reward":
            raise ConfigError(f"{self.name}: a world model needs rewards; reward_mode must be reward")
        if c.dyna_buffer < c.dyna_starts:
            raise ConfigError(
                f"{self.name}: dyna_buffer ({c.dyna_buffer}) must hold at least the steps of one update, "
                f"dyna_starts ({c.dyna_starts})"
            )

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Scale and bounds of the data, then what the method prepares.

        Raises:
            DataError: actions are not always legal, and no model predicts which are.
            CheckpointError, ConfigError: the setting ``world_model`` names no model that fits.
        """
        for dataset in data:
            if dataset.action_mask is not None and not _all_legal(dataset):
                raise DataError(
                    f"{dataset.card.title}: not every action is always legal, and the world model does not predict "
                    "which are; train without --dyna"
                )
        if self.config.world_model:
            self.dyna_world.load(self.config.world_model)
        else:
            self.dyna_world.observe(data)
        super().prepare(data, batches)

    def stages(self) -> tuple[Stage, ...]:
        """The world model, unless it was saved; the data alone, if asked for; the mixture."""
        c = self.config
        offline = (Stage("data alone", self.update_on_data, c.dyna_start),) if c.dyna_start else ()
        learning = (*offline, Stage("data and model", self.update_on_mixture))
        if c.world_model:
            return learning
        model = Stage("world model", self.update_model, c.model_updates, ignores=world_model_ignores(c))
        return (model, *learning)

    @property
    def batch_rows(self) -> int:
        """Steps for the world model's members, or for the method and the chains' starts."""
        of_model = 0 if self.config.world_model else self.dyna_world.rows
        rows: int = max(of_model, self.config.batch_size + self.config.dyna_starts)
        return rows

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """The method's own, and those for chains and mixture."""
        c = self.config
        acting = {f"dyna_act_{k}": draw for k, draw in enumerate(self._draws())}
        return {
            **super().noise(),
            **acting,
            "dyna_member": ("uniform", (c.dyna_starts,)),
            "dyna_real": ("uniform", (c.batch_size,)),
            "dyna_row": ("uniform", (c.batch_size,)),
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the present stage; metrics are [R]."""
        return self.stage.update(batch)

    def update_model(self, batch: Batch) -> dict[str, Tensor]:
        """One step of every member of the world model."""
        loss, metrics = self.dyna_world.loss(batch)
        norms = self.step(dyna_world=loss)
        return {**metrics, "grad_norm/world": norms["grad_norm/dyna_world"]}  # beside world/loss

    def update_on_data(self, batch: Batch) -> dict[str, Tensor]:
        """The method's own update."""
        return super().update(self._real(batch))  # type: ignore[safe-super]

    def update_on_mixture(self, batch: Batch) -> dict[str, Tensor]:
        """One model step of all chains, then the method's own update on rows of data and buffer."""
        metrics = self._extend(batch)
        return metrics | super().update(self._mixed(batch))  # type: ignore[safe-super]

    # Chains ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _extend(self, batch: Batch) -> dict[str, Tensor]:
        """One step of every chain into the buffer; metrics ``[R]``."""
        c = self.config
        noise = batch.noise
        state = batch.state if self.dyna_world.state else None
        starts = self.dyna_world.frame(batch.obs, state)[:, c.batch_size : c.batch_size + c.dyna_starts]
        begins = self.age >= c.dyna_horizon
        frame = torch.where(begins.unsqueeze(-1), starts, self.chain)
        action = self._dyna_act(frame, noise)
        prediction = self.dyna_world.predict(frame, action)
        after, reward, mask = prediction.drawn(noise["dyna_member"])
        unsure = prediction.uncertainty()
        penalty = self.hyperparameter("dyna_penalty", 2) * (unsure.reward + unsure.aleatoric)
        paid = prediction.team_reward.amin(1) - penalty
        reward = reward + (paid - reward.mean(-1)).unsqueeze(-1)  # agents' shares of it stay
        self._keep(frame=frame, next_frame=after, action=action, agent_reward=reward, mask=mask)
        age = torch.where(begins, torch.zeros_like(self.age), self.age) + 1
        self.age.copy_(torch.where(mask == 0, torch.full_like(age, c.dyna_horizon), age))
        self.chain.copy_(after)
        return {"world/reward": paid.mean(1), "world/penalty": penalty.mean(1)}

    def _dyna_act(self, frame: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Actions of the current policies, with their exploration noise if any."""
        obs, _ = self.dyna_world.split(frame)
        drawn = [noise[name] for name in noise if name.startswith("dyna_act_")]
        return self.policy().act(obs, self._action_mask(obs), cast(Any, GivenRandom(drawn)))

    @torch.no_grad()
    def _draws(self) -> list[tuple[Kind, tuple[int, ...]]]:
        """Random numbers that the policies ask for."""
        spec = self.spec
        random = RecordedDraws(self.device, self.dtype, self.replicas)
        obs = self.chain.new_zeros(self.replicas, self.config.dyna_starts, spec.n_agents, spec.obs_size)
        self.policy().act(obs, self._action_mask(obs), cast(Any, random))
        return random.draws

    def _action_mask(self, obs: Tensor) -> Tensor | None:
        """All actions that an agent has, ``[R, B, N, A]``; None for continuous ones."""
        if not self.spec.discrete:
            return None
        return (self.action_dimensions > 0).expand(*obs.shape[:-1], -1)

    def _keep(self, **step: Tensor) -> None:
        """Put ``[R, S, ...]`` into the buffer, over its oldest rows."""
        count = torch.arange(self.config.dyna_starts, device=self.device)
        rows = torch.remainder(self.pushed[:1] + count, self.config.dyna_buffer)
        for name, value in step.items():
            getattr(self, f"kept_{name}").index_copy_(1, rows, value)
        self.pushed.add_(self.config.dyna_starts)

    # Batches ---------------------------------------------------------------------------------------------

    def _real(self, batch: Batch) -> Batch:
        """The data's rows of the method's own fields."""
        own = [name for name in self._own_fields if batch.has(name)]
        fields = {name: getattr(batch, name)[:, : self.config.batch_size] for name in own}
        return Batch.of(batch.noise, **fields)

    @torch.no_grad()
    def _mixed(self, batch: Batch) -> Batch:
        """Each row of the data or of the buffer."""
        real = self._real(batch)
        noise = batch.noise
        full = (self.pushed >= self.config.dyna_buffer).unsqueeze(1)
        is_model = (noise["dyna_real"] >= self.hyperparameter("dyna_share", 2)) & full
        rows = (noise["dyna_row"] * self.config.dyna_buffer).long().clamp(max=self.config.dyna_buffer - 1)
        drawn = {name: take_rows(getattr(self, f"kept_{name}"), rows) for name in self._shapes}
        imagined = self._as_fields(drawn)
        fields = dict[str, Tensor]()
        for name, value in real.tensors().items():
            where = is_model.view(*is_model.shape, *(1,) * (value.ndim - 2))
            fields[name] = torch.where(where, imagined[name], value)
        return Batch.of(noise, **fields)

    def _as_fields(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows of the buffer under the names of a batch."""
        (obs, state), (next_obs, next_state) = (
            self.dyna_world.split(drawn[k]) for k in ("frame", "next_frame")
        )
        found = {"obs": obs, "next_obs": next_obs, "state": state, "next_state": next_state}
        mask = self._action_mask(obs)
        found |= {
            "action": drawn["action"],
            "mask": drawn["mask"],
            "action_mask": mask,
            "next_action_mask": mask,
        }
        found |= {"agent_reward": drawn["agent_reward"], "reward": drawn["agent_reward"].mean(-1)}
        return {name: value for name, value in found.items() if value is not None}


def _all_legal(dataset: Any) -> bool:
    """Whether every agent may always take every action that it has."""
    sizes = torch.tensor(dataset.spec.action_sizes).unsqueeze(-1)
    has = (torch.arange(dataset.spec.action_size) < sizes).numpy()
    return bool((dataset.action_mask == has).all())
