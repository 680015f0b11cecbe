"""QMIX+CQL and VDN+CQL: value decomposition with a conservative penalty, for discrete actions.

QMIX (Rashid et al. 2018, arXiv 1803.11485) or VDN (Sunehag et al. 2018) with double Q and a penalty in the spirit
of conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), as in OG-MARL (Formanek et al. 2023, arXiv
2302.00521) and offpymarl. The agents share a network that reads their episode so far; ``Q_tot(s, q_1..q_n)`` is
monotone in every agent's value. Bars mark targets:

1. a*_i = argmax over legal actions of Q(o'_i),   y = r + gamma mask Q̄_tot(s', Q̄(o'_1)[a*_1], ...)
2. TD   = 1/2 mean (Q_tot(s, a) - y)^2
3. ``penalty = "joint"`` (OG-MARL): team actions a^1..a^K drawn uniformly from the legal ones, a^0 the data's:
                CQL = mean [log sum_k exp Q_tot(s, a^k) - Q_tot(s, a)]
   ``penalty = "individual"`` (offpymarl):
                CQL = mean over steps and agents [log sum_{a legal} exp Q(o_i)[a] - Q(o_i)[a_i]]
4. L    = TD + w CQL,   the targets are copied every 200 updates

With ``cql_weight = 0`` this is QMIX (or VDN) on logged data, and a table has to call it so. Means are over real
steps. The agents act with their best legal action.

Departures from published code, and the option that restores it:

* The random team actions are legal. OG-MARL hands probabilities to a sampler of logits, so that with two legal
  actions of six it draws an illegal one 55 % of the time; not offered.
* The penalty leaves out the final row, which has no action; OG-MARL's counts it; not offered.
* offpymarl's joint penalty does not count the data's action: ``data_action = False``. Its individual penalty is a sum
  over agents: multiply ``cql_weight`` by their number.
* The one half in TD is TF2 OG-MARL's; ``half_td = False`` leaves it out, as the others do.
* Sequences lie within one episode and a cut one bootstraps from its own final row (OG-MARL's straddle episodes), and
  the targets start as copies (OG-MARL's mixer target is random until the first copy); neither is offered.
* ``td_lambda`` > 0, ``last_action = True`` and ``target_period = 0`` (then the rate ``tau``) are offpymarl's.

Options off by default: ``history = "mlp"`` learns from transitions, without memory. With ``value_normalization`` TD
errors are divided by d = sg mean |Q_tot - mean Q_tot| of the batch, the scale-invariant normalization of arXiv
2603.08399: bootstrapping through a mixer that is not linear amplifies the values' scale until policies degrade;
divided by d, TD and its gradient do not depend on that scale, and the fixed point stays. ``backup = "partial"`` keeps
the data's next actions in the target but for those of ``replaced`` random agents of each sample, which are a*_i
(partial action replacement, arXiv 2511.07629); steps whose next action is cut off have no target then, unless all
agents are replaced, which is the plain target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, team_fields
from marlzoo.config import ASSIGNED_LATER, MLP_TRANSITIONS, RECURRENT_SEQUENCES, Count, Natural
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import QNetworkConfig, QTeam
from marlzoo.objectives import (
    TargetMemory,
    backup_form,
    data_value,
    logged_value,
    masked_logsumexp,
    mean_over,
    random_agents,
    require_agents,
    team_targets,
    value_scale,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

from . import _q_cql

GOLDEN_RATIO = 0.6180339887498949  # its multiples spread evenly over the unit interval


@dataclass(frozen=True)
class QMIXCQLConfig(_q_cql.ConservativeQConfig):
    """Settings of QMIX+CQL; the defaults are OG-MARL's."""

    mixer: Literal["qmix", "vdn"] = "qmix"  # how the agents' values make the team's
    penalty: Literal["joint", "individual"] = "joint"  # on the team's value, or on each agent's
    samples: Count = 20  # K random team actions in the joint penalty
    data_action: bool = True  # count the data's team action among them
    mixer_hidden: Count = 64  # hidden units of the networks that make the mixer's weights
    mixer_embed: Count = 32  # hidden units of the mixer
    # Divide TD errors by the spread of the team's values in the batch (SVN).
    value_normalization: bool = field(default=False, metadata=ASSIGNED_LATER)
    # Next actions in the target: the best ones, or the data's but for some agents.
    backup: Literal["policy", "partial"] = field(default="policy", metadata=ASSIGNED_LATER)
    replaced: Natural = field(default=1, metadata=ASSIGNED_LATER)  # how many agents' (partial)


class QMIXCQL(Algorithm):
    """QMIX or VDN with a conservative penalty; see the module's text."""

    config: QMIXCQLConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = QMIXCQLConfig
    actions = ("discrete",)
    unread = ("bound_margin",)
    presets: ClassVar = {
        "smac": {**MLP_TRANSITIONS, "history": "mlp"},
        "smac-recurrent": RECURRENT_SEQUENCES,
        "smac-authors": {},
    }
    variants: ClassVar = {
        "discrete": [
            {"history": "mlp"},
            {"mixer": "vdn", "penalty": "individual", "last_action": True, "target_period": 0},
        ]
    }

    def build(self, spec: Spec) -> None:
        """The agents' network, the mixer and the targets of both."""
        c = self.config
        recurrent = c.history == "rnn"
        self.fields = team_fields(recurrent, mixed=True)
        if recurrent:
            self.sampling = "sequence"
        require_agents(self.name, c.replaced, spec)
        self.backup = backup_form(c.backup, c.replaced, spec)
        if self.backup == "partial" and not recurrent:
            self.fields = (*self.fields, "next_action")
        shape = QNetworkConfig(
            c.hidden, recurrent, c.last_action, c.mixer_embed, c.mixer_hidden, c.memory_relu
        )
        self.team = QTeam(self.init, spec, shape, c.mixer)
        self.target = self.make_target(self.team)
        self.add_optimizer(q=self.team)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """What random team actions, and the agents whose next action is replaced, are made of."""
        c = self.config
        n = self.spec.n_agents
        wanted: dict[str, tuple[Kind, tuple[int, ...]]] = {}
        if c.penalty == "joint":
            wanted["actions"] = ("uniform", (c.batch_size, c.samples, n))
        if self.backup == "partial":
            wanted["subset"] = ("uniform", (c.batch_size, 1, n))
        return wanted

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and the gradient norm, each [R]."""
        c = self.config
        batch = as_sequences(batch)

        # 1. Targets
        gamma = self.hyperparameter("gamma", 3)
        trace = self.hyperparameter("td_lambda", 3)
        replaced = random_agents(batch.noise["subset"], c.replaced) if self.backup == "partial" else None
        found = team_targets(
            self.team, self.target, batch, gamma, trace, memory=self.memory, replaced=replaced
        )
        q_all = found.every
        q = found.taken
        q_tot = found.total

        # 2. TD
        td = mean_over((q_tot - found.target).square(), found.counted) * (0.5 if c.half_td else 1.0)
        if c.value_normalization:
            td = td / value_scale(q_tot, found.counted).square()

        # 3. The penalty
        if c.penalty == "joint":
            excess = self._joint_logsumexp(q_all, q_tot, batch) - q_tot
        else:
            excess = masked_logsumexp(q_all[:, :, :-1], batch.action_mask[:, :, :-1]) - q
        penalty = mean_over(excess, batch.filled)

        # 4. The step
        norms = self.step(q=td + self.hyperparameter("cql_weight") * penalty)
        self.hard_update(self.target, self.team, c.target_period, self.hyperparameter("tau"), "q")
        losses = {"q/loss": td.detach(), "q/penalty": penalty.detach()}
        value = data_value(q_tot, batch.filled)
        return {**losses, "q/total": mean_over(q_tot.detach(), batch.filled), **value, **norms}

    def policy(self) -> Policy:
        """The best legal action."""
        return self.team.agents.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return logged_value(self.team, batch)

    def _joint_logsumexp(self, q_all: Tensor, q_tot: Tensor, batch: Batch) -> Tensor:
        """log sum exp of the team's value over random legal team actions, [R, B, L]."""
        actions = random_valid_actions(batch.action_mask[:, :, :-1], batch.noise["actions"])
        drawn = self.team.total(joint_values(q_all[:, :, :-1], actions), batch.state[:, :, :-1])
        if self.config.data_action:
            drawn = torch.cat((drawn, q_tot.unsqueeze(-1)), dim=-1)
        return torch.logsumexp(drawn, dim=-1)


def random_valid_actions(action_mask: Tensor, uniform: Tensor) -> Tensor:
    """Team actions drawn uniformly from the legal ones.

    One set of numbers serves a whole sequence: row t uses them turned by t golden ratios, so that rows differ and
    the numbers that an update needs do not depend on the sequences' length.

    Args:
        action_mask: ``[R, B, L, N, A]`` bool.
        uniform: ``[R, B, K, N]`` on [0, 1).

    Returns:
        ``[R, B, L, K, N]`` int64; the last action where nothing is legal (padding).
    """
    rows = torch.arange(action_mask.shape[2], device=action_mask.device, dtype=uniform.dtype)
    turn = rows * GOLDEN_RATIO
    place = torch.remainder(uniform.unsqueeze(2) + turn.view(-1, 1, 1), 1.0)
    count = action_mask.sum(-1).unsqueeze(3)  # [R, B, L, 1, N]
    wanted = torch.minimum((place * count).long() + 1, count.clamp_min(1))
    rank = action_mask.long().cumsum(-1).unsqueeze(3)  # the wanted-th legal action is the first of that rank
    before = (rank < wanted.unsqueeze(-1)).sum(-1)
    return before.clamp_max(action_mask.shape[-1] - 1)


def joint_values(values: Tensor, actions: Tensor) -> Tensor:
    """``values [R, B, L, N, A]`` of K team actions ``[R, B, L, K, N]``, ``-> [R, B, L, K, N]``."""
    k = actions.shape[3]
    spread = values.unsqueeze(3).expand(*values.shape[:3], k, *values.shape[3:])
    return spread.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
