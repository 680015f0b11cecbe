"""IQL+CQL: independent Q-learning with a conservative penalty, for discrete actions.

Independent Q-learning (Tan 1993; here not implicit Q-learning) with double Q (van Hasselt et al. 2016) and the
penalty of conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), as in OG-MARL (Formanek et al. 2023,
arXiv 2302.00521). Each agent learns alone from its own reward (the team's where there is one for all) with a
network that reads its episode so far; the agents share it through their one-hot number. Bars mark targets:

1. a*   = argmax over legal actions of Q(o'_i),   y = r_i + gamma mask Q̄(o'_i)[a*]
2. TD   = 1/2 mean (Q(o_i)[a_i] - y)^2
3. CQL  = mean [log sum_{a legal} exp Q(o_i)[a] - Q(o_i)[a_i]]
4. L    = TD + w CQL,   the target is copied every 200 updates

Means are over agents and real steps. The agents act with their best legal action.

Departures from published code, and the option that restores it:

* Illegal actions are left out of the penalty; OG-MARL pushes them down too: ``penalize_illegal = True``.
* The one half in TD is TF2 OG-MARL's; its PyTorch port has none: ``half_td = False``.
* Sequences lie within one episode and start with an empty memory, and a cut sequence bootstraps from its own final
  row. OG-MARL's straddle episodes, and a time limit bootstraps into the next episode's first row; not offered.
* The target starts as a copy; OG-MARL's TF2 target is random until the first copy; not offered.
* ``td_lambda`` > 0, ``last_action = True`` and ``target_period = 0`` (then the rate ``tau``) are offpymarl's.

``history = "mlp"`` learns from transitions, without memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, team_fields
from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import QNetworkConfig, QTeam
from marlzoo.objectives import (
    TargetMemory,
    data_value,
    logged_value,
    masked_logsumexp,
    mean_over,
    team_targets,
)
from marlzoo.spec import Spec

from . import _q_cql


@dataclass(frozen=True)
class IQLCQLConfig(_q_cql.ConservativeQConfig):
    """Settings of IQL+CQL; the defaults are OG-MARL's."""

    penalize_illegal: bool = False  # count illegal actions in the penalty (OG-MARL)


class IQLCQL(Algorithm):
    """Independent Q-learning with a conservative penalty; see the module's text."""

    config: IQLCQLConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = IQLCQLConfig
    actions = ("discrete",)
    unread = ("bound_margin",)
    presets: ClassVar = {
        "smac": {**MLP_TRANSITIONS, "history": "mlp"},
        "smac-recurrent": RECURRENT_SEQUENCES,
        "smac-authors": {},
    }
    variants: ClassVar = {"discrete": [{"history": "mlp"}, {"last_action": True, "target_period": 0}]}

    def build(self, spec: Spec) -> None:
        """One network of action values, shared by the agents, and its target."""
        c = self.config
        recurrent = c.history == "rnn"
        self.fields = team_fields(recurrent, mixed=False)
        if recurrent:
            self.sampling = "sequence"
        shape = QNetworkConfig(c.hidden, recurrent, c.last_action, relu=c.memory_relu)
        self.team = QTeam(self.init, spec, shape, mixer=None)
        self.target = self.make_target(self.team)
        self.add_optimizer(q=self.team)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and the gradient norm, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        gamma = self.hyperparameter("gamma", 3)
        trace = self.hyperparameter("td_lambda", 3)

        # 1. Targets
        found = team_targets(self.team, self.target, batch, gamma, trace, memory=self.memory)
        q = found.taken

        # 2. TD
        td = mean_over((q - found.target).square(), batch.filled) * (0.5 if c.half_td else 1.0)

        # 3. The penalty
        action_mask = None if c.penalize_illegal else batch.action_mask[:, :, :-1]
        penalty = mean_over(masked_logsumexp(found.every[:, :, :-1], action_mask) - q, batch.filled)

        # 4. The step
        norms = self.step(q=td + self.hyperparameter("cql_weight") * penalty)
        self.hard_update(self.target, self.team, c.target_period, self.hyperparameter("tau"), "q")
        losses = {"q/loss": td.detach(), "q/penalty": penalty.detach()}
        value = data_value(q, batch.filled)
        return {**losses, "q/mean": mean_over(q.detach(), batch.filled), **value, **norms}

    def policy(self) -> Policy:
        """The best legal action."""
        return self.team.agents.policy()

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return logged_value(self.team, batch)
