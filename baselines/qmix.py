"""QMIX: value decomposition with a monotone mixer, for discrete actions (online).

Rashid et al., "QMIX: Monotonic Value Function Factorization for Deep Multi-Agent Reinforcement Learning", ICML 2018,
arXiv 1803.11485; with ``mixer = "vdn"`` value decomposition networks (Sunehag et al. 2018, arXiv 1706.05296). The
agents share a network that reads their episode so far, with the action of the step before. Bars mark targets:

1. collect: each agent takes its best legal action, with probability epsilon any legal one; epsilon falls linearly
            over the first ``anneal`` team steps
2. a*_i = argmax over legal actions of Q(o'_i),   y = r + gamma mask Q̄_tot(s', Q̄(o'_1)[a*_1], ...)
3. L    = mean (Q_tot(s, a) - y)^2 over the steps of sequences drawn from the replay,
   Q_tot(s, q_1 .. q_n) is monotone in every q_i; the targets are copied every 200 updates

Sequences are whole episodes (``sequence_length = 0``), or their pieces of that many steps, each read with an empty
memory at its start. ``history = "mlp"`` learns from single steps, without memory. As a behavior policy of
recorded data, the deployed one explores with the last epsilon.

Departures from the authors' code: Adam instead of RMSprop (as in later releases of the field); a replay counts steps,
not episodes; several copies of the environment collect at once, so ``learn_steps`` updates follow
``num_envs * rollout`` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, team_fields
from marlzoo.config import Count, Fraction, Natural, Positive, ReplayConfig
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import QNetworkConfig, QTeam
from marlzoo.objectives import mean_over, team_targets
from marlzoo.replicas import ReplicaRandom
from marlzoo.spec import Spec


@dataclass(frozen=True)
class QMIXConfig(ReplayConfig):
    """Settings of QMIX."""

    mixer: Literal["qmix", "vdn"] = "qmix"  # how the agents' values make the team's
    td_lambda: Fraction = 0.0  # trace of the target; 0: one step
    epsilon_start: Fraction = 1.0  # probability of a random action at the start
    epsilon_end: Fraction = 0.05  # and after ``anneal`` steps
    anneal: Count = 50_000  # team steps per replica over which it falls
    tau: Fraction = 0.01  # rate at which the targets follow, where they are not copied
    target_period: Natural = 200  # updates between copies of the targets; 0: follow with rate tau
    hidden: Count = 64  # width of the agents' hidden layer and of their memory
    mixer_hidden: Count = 64  # hidden units of the networks that make the mixer's weights
    mixer_embed: Count = 32  # hidden units of the mixer
    history: Literal["rnn", "mlp"] = "rnn"  # act on the episode so far, or on the observation
    last_action: bool = True  # also read the action of the step before (rnn)
    lr: Positive = 5e-4  # step size of Adam
    grad_clip: Positive = 10.0  # bound on the gradient norm
    batch_size: Count = 32  # sequences (or steps) per update and replica
    num_envs: Count = 16  # copies of the environment per replica
    rollout: Count = 25  # steps of each copy between two rounds of learning
    replay: Count = 200_000  # team steps that the replay holds, per replica
    warmup: Natural = 2_000  # team steps per replica before the first learning
    learn_steps: Count = 8  # updates in a round


class QMIX(Algorithm):
    """QMIX and VDN; see the module's text."""

    config: QMIXConfig
    config_class = QMIXConfig
    actions = ("discrete",)
    sampling = "online"
    unread = ("bound_margin",)
    presets: ClassVar = {}
    variants: ClassVar = {
        "discrete": [
            {"history": "mlp", "target_period": 0},
            {"mixer": "vdn", "sequence_length": 5, "td_lambda": 0.6, "last_action": False},
        ]
    }

    def build(self, spec: Spec) -> None:
        """The agents' network, the mixer and the targets of both."""
        c = self.config
        recurrent = c.history == "rnn"
        self.fields = team_fields(recurrent=True, mixed=True)  # batches are sequences, if of one step
        shape = QNetworkConfig(
            c.hidden, recurrent, c.last_action, c.mixer_embed, c.mixer_hidden, c.memory_relu
        )
        self.team = QTeam(self.init, spec, shape, c.mixer)
        self.target = self.make_target(self.team)
        self.add_optimizer(q=self.team)
        # In a list: it holds a collector's memories and is no module of the learner's own.
        self._collecting = [self.team.agents.policy(epsilon=self.epsilon)]

    def sequences(self) -> tuple[int, bool]:
        """Episodes or pieces of them side by side; single steps without memory."""
        if self.config.history == "mlp":
            return 1, True
        return self.config.sequence_length or self.spec.horizon, False

    def epsilon(self) -> Tensor:
        """The present probability of a random action, ``[R, 1, 1]``."""
        c = self.config
        left = 1.0 - min(self.updates * c.num_envs * c.rollout / c.anneal, 1.0)
        start = self.hyperparameter("epsilon_start", 3)
        end = self.hyperparameter("epsilon_end", 3)
        return end + (start - end) * left

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """The best legal actions, now and then others, ``[R, E, N]``."""
        (policy,) = self._collecting
        policy.reset(obs.shape[1], fresh)
        return policy.act(obs, action_mask, random)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the loss, batch means and the gradient norm, each [R]."""
        gamma = self.hyperparameter("gamma", 3)
        trace = self.hyperparameter("td_lambda", 3)
        found = team_targets(self.team, self.target, batch, gamma, trace)
        loss = mean_over((found.total - found.target).square(), batch.filled)
        norms = self.step(q=loss)
        self.hard_update(self.target, self.team, self.config.target_period, self.hyperparameter("tau"), "q")
        return {"q/loss": loss.detach(), "q/total": mean_over(found.total.detach(), batch.filled), **norms}

    def policy(self) -> Policy:
        """The best legal action; exploring with the last epsilon."""
        return self.team.agents.policy(epsilon=lambda: self.hyperparameter("epsilon_end", 3))
