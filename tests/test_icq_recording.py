"""The reference of ICQ-MA, with the official terms restored, against numbers recorded from the official code (SMAC).

What :mod:`tests.reference.icq` holds the method to is so held to the official code. Restored are the terms that the
method's text lists as departures: RMSprop, a critic step per time step, padding in the weights' normalizer, returns
that bootstrap from padding, exploration in the training policy; and a policy that sees the updated critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marlzoo.registry import find_method
from tests.reference.harness import DOUBLE, Adam, Replica
from tests.reference.icq import critic_loss, policy_loss_of, softmax_weights, team_value, values

RECORDING = Path(__file__).parent / "golden" / "icq_ma_C1.npz"
NETWORKS = {
    "actor": (("agent.fc1",), ("agent.rnn.ih",), ("agent.rnn.hh",), ("agent.fc2",)),
    "critic.0": (("critic.fc1",), ("critic.fc2",), ("critic.fc_v", "critic.fc3")),
    "critic.1": (("mixer.hyper_w_1",), ("mixer.hyper_w_final",)),
    "target.0": (("target_critic.fc1",), ("target_critic.fc2",), ("target_critic.fc_v", "target_critic.fc3")),
    "target.1": (("target_mixer.hyper_w_1",), ("target_mixer.hyper_w_final",)),
}
UNUSED = ("hyper_b_1", "mixer.V")  # they get no gradient


class RMSprop(Adam):
    """Smoothing 0.99, ``eps`` beside the root, no momentum."""

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float, eps: float = 1e-5) -> None:
        """One step down these gradients."""
        for value, gradient, v in zip(self.values, gradients, self.second, strict=True):
            v.copy_(0.99 * v + 0.01 * gradient**2)
            value -= lr * gradient / (v.sqrt() + 1e-5)


class Recorded(Replica):
    """The official learner's parameters under their own names."""

    def __init__(self, recording: Any) -> None:
        agents, actions = int(recording["meta.n_agents"]), int(recording["meta.n_actions"])
        self.spec: Any = SimpleNamespace(
            n_agents=agents, action_size=actions, action_sizes=(actions,) * agents, discrete=True
        )
        self.config: Any = find_method("icq").config_class(
            history="rnn",
            epsilon=float(recording["f64.epsilon"]),
            mask_softmax=False,
            td_lambda=0.75,
            gamma=0.99,
            lr=float(recording["meta.lr"]),
            critic_lr=float(recording["meta.critic_lr"]),
            grad_clip=float(recording["meta.grad_norm_clip"]),
        )
        self.values = {k: v.requires_grad_() for k, v in parameters(recording, "init.").items()}
        self.optimizers, self.memory, self._named = {}, {}, {}

    def layers(self, module: str, *member: int) -> list[tuple[Tensor, Tensor]]:
        """By our names; the critic's two heads are one layer, the value first."""
        return [
            (
                torch.cat([self.values[f"{name}.weight"] for name in heads], dim=0).T,
                torch.cat([self.values[f"{name}.bias"] for name in heads]),
            )
            for heads in NETWORKS[module]
        ]

    def adam(self, group: str, *modules: str) -> Adam:
        """RMSprop in its place."""
        if group not in self.optimizers:
            self.optimizers[group] = RMSprop([self.values[name] for name in self.named(*modules)])
        return self.optimizers[group]


def parameters(recording: Any, prefix: str) -> dict[str, Tensor]:
    """Recorded parameters by name; those of the GRU's two parts end like those of layers."""
    found = {}
    for name in recording.files:
        if name.startswith(prefix) and not any(part in name for part in UNUSED):
            ours = name.removeprefix(prefix)
            for kind in ("weight", "bias"):
                ours = ours.replace(f"rnn.{kind}_ih", f"rnn.ih.{kind}").replace(
                    f"rnn.{kind}_hh", f"rnn.hh.{kind}"
                )
            found[ours] = torch.from_numpy(recording[name]).to(DOUBLE)
    return found


def official_returns(own: Recorded, seq: Any, terminated: Tensor) -> dict[tuple[int, int], Tensor]:
    """Lambda returns over all rows: padding has values, and the last row's is cut by any terminal before it."""
    c = own.config
    ((q, _),) = values(own, "target.0", seq, seq.every_action)
    samples, rows = q.shape[:2]
    totals = [
        [team_value(own, "target.1", seq.state[b, t], q[b, t]).item() for t in range(rows)]
        for b in range(samples)
    ]
    u = torch.zeros(samples, rows, dtype=DOUBLE)
    for t in range(rows):
        column = [totals[b][t] for b in range(samples)]
        weights = softmax_weights(column, [True] * samples, 1000.0)
        u[:, t] = torch.tensor(weights, dtype=DOUBLE) * torch.tensor(column, dtype=DOUBLE)
    found = {}
    for b in range(samples):
        following = u[b, -1] * (1.0 - terminated[b].sum())
        for t in reversed(range(rows - 1)):
            after = (1.0 - c.td_lambda) * c.gamma * u[b, t + 1] * (1.0 - terminated[b, t])
            following = c.td_lambda * c.gamma * following + seq.filled[b, t] * (seq.reward[b, t] + after)
            found[b, t] = following
    return found


def test_reference_equals_the_official_code() -> None:
    """Returns, losses, gradient norms and parameters of one critic phase and one actor step, relative 1e-9."""
    recording = np.load(RECORDING)
    batch = {
        name.removeprefix("batch."): torch.from_numpy(recording[name])
        for name in recording.files
        if name.startswith("batch.")
    }
    own, terminated = Recorded(recording), batch["terminated"][..., 0].to(DOUBLE)
    mask = batch["filled"][:, :-1, 0].to(DOUBLE)
    mask[:, 1:] = mask[:, 1:] * (1.0 - terminated[:, :-2])
    seq = SimpleNamespace(
        obs=batch["obs"].to(DOUBLE),
        state=batch["state"].to(DOUBLE),
        action_mask=batch["avail_actions"] > 0,
        every_action=batch["actions"][..., 0],
        action=batch["actions"][:, :-1, :, 0],
        reward=batch["reward"][..., 0].to(DOUBLE),
        filled=mask,
    )
    samples, length = mask.shape

    def same(name: str, ours: Any) -> None:
        np.testing.assert_allclose(ours, recording[f"f64.{name}"], rtol=1e-9, atol=1e-12, err_msg=name)

    returns = official_returns(own, seq, terminated)
    targets = [[returns[b, t].item() for t in range(length)] for b in range(samples)]
    same("td_targets", np.array(targets)[..., None])
    losses, norms = [], []
    for t in range(length):
        loss = critic_loss(own, seq, [(b, t) for b in range(samples) if mask[b, t]], returns)
        losses.append(loss.item())
        # Two optimizers in the official code, whose gradients are clipped together: the same as one.
        taken = own.step(lr={"critic": own.config.critic_lr}, critic=(loss, "critic", "mixer"))
        norms.append(taken["grad_norm/critic"])
    same("critic_loss", losses)
    same("critic_grad_norm", norms)
    for name, value in parameters(recording, "f64.after_critic.").items():
        torch.testing.assert_close(own.values[name].detach(), value, rtol=1e-9, atol=1e-12, msg=name)

    loss, _ = policy_loss_of(own, seq, mask)
    same("actor_loss", loss.item())
    same("actor_grad_norm", own.step(actor=(loss, "agent"))["grad_norm/actor"])
    after = parameters(recording, "f64.after_actor.")
    assert after.keys() == set(own.named("agent"))
    for name, value in after.items():
        torch.testing.assert_close(own.values[name].detach(), value, rtol=1e-9, atol=1e-12, msg=name)
