"""Online QMIX and VDN: specification ``iql_cql_qmix_cql``, sections 2 and 3, without a penalty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from tests.reference.blocks import mean
from tests.reference.decomposition import (
    double_q,
    episodes,
    greedy_team,
    lambda_returns,
    outputs,
    taken,
    team_value,
    update_target,
)
from tests.reference.harness import UPDATES, Case, Replica, Seen
from tests.reference.online import replay_batches

COLLECTING = {"num_envs": 2, "rollout": 8, "replay": 48, "warmup": 0, "learn_steps": UPDATES}
COMMON = {**COLLECTING, "target_period": 2, "batch_size": 4}
NEVER_VARIED = dict.fromkeys(
    (
        *("num_envs", "rollout", "restart", "replay", "warmup", "learn_steps"),
        *("epsilon_start", "epsilon_end", "anneal"),
    ),
    "no part of the update",
)

CASES = [
    Case("discrete", COMMON, agent_rewards=False),
    Case("discrete", {**COMMON, "history": "mlp", "target_period": 0}),
    Case(
        "discrete",
        {**COMMON, "memory_relu": True, "mixer": "vdn", "td_lambda": [0.6, 0.9], "sequence_length": 3},
    ),
    Case("discrete", {**COMMON, "last_action": False, "target_period": 200}),
]


def make_batches(learner: Algorithm, updates: int) -> Iterator[Batch]:
    """From a replay of random experience."""
    return replay_batches(learner, updates)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update of agents' values and mixer together."""
    c = own.config
    team, target = own.layers("team.agents"), own.layers("target.agents")
    errors, totals = [], []
    for episode in episodes(batch):
        q = outputs(own, team, episode.obs, episode.action)
        with torch.no_grad():
            frozen = outputs(own, target, episode.obs, episode.action)
            best = [double_q(q[t + 1], frozen[t + 1], episode.action_mask[t + 1]) for t in episode.steps]
            value = [team_value(own, "target", episode.state[t + 1])(best[t]) for t in episode.steps]
        y = lambda_returns(episode.reward, episode.goes_on, value, c.gamma, c.td_lambda)
        for t in episode.steps:
            total = team_value(own, "team", episode.state[t])(taken(q[t], episode.action[t]))
            totals.append(total)
            errors.append((total - y[t]) ** 2)
    td_loss = mean(errors)
    norms = own.step(q=(td_loss, "team"))
    update_target(own, own.optimizers["q"].count)
    return {"q/loss": td_loss, "q/total": mean(totals), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's best legal action."""
    return greedy_team(own, own.layers("team.agents"), past)
