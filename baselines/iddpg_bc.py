"""IDDPG+BC: independent deterministic actor-critics with behavior cloning, as OG-MARL has them.

Formanek, Jeewa, Shock, Pretorius, "Off-the-Grid MARL: Datasets with Baselines for Offline Multi-Agent Reinforcement
Learning", AAMAS 2023, arXiv 2302.00521: TD3+BC (arXiv 2106.06860) with a policy that reads the episode so far and
critics that read the state, the agent's own action and its number. All agents share the networks. A bar is a target
network, sg a stopped gradient:

1. target:  y    = r_i + gamma mask min_j Q̄_j(s', pī(o'_i))
2. critics: L_Q  = 1/2 sum_j mean (Q_j(s, a_i) - y)^2
3. policy:  L_pi = -lambda mean min_j Q_j(s, pi(o_i)) + mean (pi(o_i) - a_i)^2 + 1e-3 mean pi(o_i)^2,
            lambda = alpha / sg mean |min_j Q_j|

Both losses are taken before any step; all targets follow at every update. There is no noise on the target's action
and no delay of the policy.

It is the form ``variant = "iddpg_bc"`` of ``td3_bc`` with the settings of OG-MARL as defaults;
that module lists what differs from the published code. Above all, the gradient through mean |Q| is stopped, as in the
code of the paper; in OG-MARL's present code it is not, so that where all values have one sign the critics have no
influence at all. For discrete actions, which OG-MARL does not use it for, the critics read one-hot vectors. With
``history = "mlp"`` it learns from transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES, Count, Natural, NonNegative, Positive

from .td3_bc import MPE, TD3BC, TD3BCConfig


@dataclass(frozen=True)
class IDDPGBCConfig(TD3BCConfig):
    """Settings of IDDPG+BC; the defaults are OG-MARL's."""

    variant: Literal["iddpg_bc"] = "iddpg_bc"  # what critics read: state, own action and number
    smoothing_sigma: NonNegative = 0.0  # noise on the target policy's action (continuous)
    policy_delay: Count = 1  # critic steps per policy step
    policy_q: Literal["q1", "min"] = "min"  # which critic the policy follows
    policy_after_critic: bool = False  # the policy's loss sees the critics after their step
    action_penalty: NonNegative = 1e-3  # weight of the policy's mean squared action (continuous)
    hidden: Count = 64  # width of the policy's hidden layers, or of its memory
    critic_hidden: Count = 128  # width of the critics' hidden layers
    memory_relu: bool = True  # a ReLU between the memory and the last layer
    history: Literal["mlp", "rnn"] = "rnn"  # act on the observation, or on the episode so far
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 32  # sequences (or transitions) per update and replica
    sequence_length: Natural = 20  # steps per sequence


class IDDPGBC(TD3BC):
    """IDDPG+BC for continuous and discrete actions; see the module's text."""

    config: IDDPGBCConfig
    config_class = IDDPGBCConfig
    actions = ("continuous", "discrete")
    unread = ("bound_margin",)
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {**MPE, "history": "mlp"},
        "smac": {**MLP_TRANSITIONS, "history": "mlp"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "critic_hidden": 128},
    }
    variants: ClassVar = {kind: ({"history": "mlp", "policy_delay": 2},) for kind in actions}
