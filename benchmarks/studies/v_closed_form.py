"""OMIGA's V converges to the closed-form solution of its convex problem.

    python benchmarks/studies/v_closed_form.py

For fixed local values Q_i(s, a), mixing weights w_i(s) and behavior mu_i(a | s), L_V is convex in V_i(s) and its
minimum is V_i*(s) = (alpha / w_i) log sum_a mu_i(a | s) exp(w_i Q_i(s, a) / alpha), where the mean weight of the
policy, E_mu exp(w_i (Q_i - V_i) / alpha), is 1. The method learns V with its own update and networks; its target
networks, which give Q and w, are set to the tables and stay there (tau = 0). A batch holds every action in
proportion to the behavior, so nothing is sampled. Action 2 of agent 0 has the highest value of all but is not in
the data: a V learned in-sample does not see it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray
from scipy.special import logsumexp

import marlzoo
from marlzoo.batch import Batch
from marlzoo.modules.layers import with_agent_id

# States differ in the agents' weights only; [S, N], [N, A], actions out of 8 [N, A].
WEIGHTS = np.array([[0.5, 2.0], [1.0, 1.0], [2.0, 0.5]])
VALUES = np.array([[2.0, 3.0, 9.0], [2.2, 1.5, 3.0]])
COUNTS = np.array([[4, 4, 0], [5, 2, 1]])
STATES = len(WEIGHTS)
AGENTS, ACTIONS = VALUES.shape
CLIPS = ("hard", "linear")


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # of V's initial values
    alphas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # all in one run
    updates: int = 3000  # with the whole data each
    lr: float = 4e-3  # step size of Adam, times alpha (within 0.1 and 1): a small alpha makes L_V steep
    hidden: int = 32  # width of the networks
    points: int = 60  # of the curve


def closed_form(alphas: Sequence[float]) -> NDArray[np.float64]:
    """V*, ``[K, S, N]``."""
    scaled = WEIGHTS[None, :, :, None] / np.array(alphas)[:, None, None, None]
    total = logsumexp(scaled * VALUES, axis=-1, b=COUNTS / COUNTS.sum(-1, keepdims=True))
    result: NDArray[np.float64] = total / scaled[..., 0]
    return result


def learner(options: Options, clip: str) -> Any:
    """Replica ``k * seeds + s`` has the k-th alpha; its target networks are the tables."""
    spec = marlzoo.Spec(AGENTS, STATES, STATES, "discrete", ACTIONS, 1)
    every = study.replicas(options.seeds, alpha=options.alphas)
    every["lr"] = [options.lr * min(max(alpha, 0.1), 1.0) for alpha in every["alpha"]]
    every |= {"hidden": options.hidden, "mixer_hidden": STATES, "tau": 0.0, "z_clip": clip}
    algorithm: Any = marlzoo.make("omiga", spec, dtype=torch.float64, **every)
    with torch.no_grad():
        for parameter in (*algorithm.target_q.parameters(), *algorithm.target_mixer.parameters()):
            parameter.zero_()
        # Hidden unit (s, i) is 1 for agent i in state s and 0 otherwise; the next layer hands it on.
        first, second, last = algorithm.target_q.layers
        for s in range(STATES):
            for i in range(AGENTS):
                unit = s * AGENTS + i
                first.weight[:, [s, STATES + i], unit] = 1.0
                first.bias[:, :, unit] = -1.0
                second.weight[:, unit, unit] = 1.0
                last.weight[:, unit] = torch.tensor(VALUES[i])
        algorithm.target_mixer.body.weight[:] = torch.eye(STATES)
        algorithm.target_mixer.weight.weight[:] = torch.tensor(WEIGHTS)
    return algorithm


def whole_batch(replicas: int) -> Batch:
    """Every state with every action in proportion to the behavior, ``B = 8 S``."""
    listed = np.stack([np.repeat(np.arange(ACTIONS), counts) for counts in COUNTS], axis=1)  # [8, N]
    action = torch.tensor(np.tile(listed, (STATES, 1)))
    state = torch.eye(STATES, dtype=torch.float64).repeat_interleave(len(listed), dim=0)
    obs = state[:, None].expand(-1, AGENTS, -1)
    zero = torch.zeros(len(action), dtype=torch.float64)
    fields: dict[str, Any] = {"obs": obs, "next_obs": obs, "state": state, "next_state": state}
    fields |= {"action": action, "reward": zero, "mask": zero}
    return Batch.of(**{name: x.expand(replicas, *x.shape) for name, x in fields.items()})


def learned(algorithm: Any, alphas: int) -> NDArray[np.float64]:
    """V now, ``[K, seeds, S, N]``."""
    states = torch.eye(STATES, dtype=torch.float64)[:, None].expand(algorithm.replicas, -1, AGENTS, -1)
    with torch.no_grad():
        v = algorithm.v(with_agent_id(states)).squeeze(-1)
    found: NDArray[np.float64] = v.numpy().reshape(alphas, -1, STATES, AGENTS)
    return found


def train(options: Options, clip: str) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """V at the end ``[K, seeds, S, N]``, and the largest error on the way."""
    algorithm = learner(options, clip)
    exact = closed_form(options.alphas)
    batch = whole_batch(algorithm.replicas)
    curve = []
    marks = np.unique(np.geomspace(1, options.updates, options.points).astype(int)).tolist()
    for update in range(1, options.updates + 1):
        algorithm.update(batch)
        if update in marks:
            error = np.abs(learned(algorithm, len(exact)) - exact[:, None]).max((1, 2, 3))
            curve += [(clip, update, a, e) for a, e in zip(options.alphas, error, strict=True)]
    columns = ["z_clip", "updates", "alpha", "max_error"]
    return learned(algorithm, len(exact)), pd.DataFrame(curve, columns=columns)


def numbers(options: Options, clip: str, found: NDArray[np.float64]) -> pd.DataFrame:
    """One line per alpha, state and agent."""
    exact = closed_form(options.alphas)
    mu = COUNTS / COUNTS.sum(-1, keepdims=True)
    lines = []
    for k, alpha in enumerate(options.alphas):
        for (s, i), w in np.ndenumerate(WEIGHTS):
            v = found[k, :, s, i]
            with np.errstate(over="ignore"):  # a V that has fallen
                weight = np.exp(logsumexp(w * (VALUES[i] - v[:, None]) / alpha, axis=-1, b=mu[i]))
            error = np.abs(v - exact[k, s, i]).max()
            lines.append((clip, alpha, i, w, exact[k, s, i], v.mean(), error, weight.mean(), len(v)))
    names = ["z_clip", "alpha", "agent", "w", "closed_form", "learned", "max_error", "mean_weight", "seeds"]
    return pd.DataFrame(lines, columns=names)


def report(options: Options, lines: pd.DataFrame, curve: pd.DataFrame) -> study.Study:
    """The table by alpha, the curves as plot."""
    body = []
    for alpha in options.alphas:
        row = [f"{alpha:g}"]
        for clip in CLIPS:
            part = lines[(lines["alpha"] == alpha) & (lines["z_clip"] == clip)]
            low = part["mean_weight"].min()
            high = part["mean_weight"].max()
            row += [f"{part['max_error'].max():.1e}", f"{low:.3g} to {high:.3g}"]
        body.append(row)
    header = [
        "alpha",
        *(f"{what}, z_clip = {clip}" for clip in CLIPS for what in ("max error of V", "mean weight")),
    ]
    notes = [
        f"Largest |V - V*| over {STATES} states (weights w from {WEIGHTS.min():g} to {WEIGHTS.max():g}), {AGENTS} "
        f"agents and {len(options.seeds)} seeds after {options.updates} updates with the whole data, and the mean "
        "policy weight of the data, which is 1 at V*. All alphas are replicas of one run.",
        "hard is the authors' bound of the exponent at ±10: an action whose w (Q - V) / alpha exceeds it does not "
        "pull V up any more, so a V that starts far below Q (at 0 here) stays there or falls. linear keeps the "
        "sign of the gradient.",
        f"Made by `{study.command('v_closed_form')}`.",
    ]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for clip, ax in zip(CLIPS, axes, strict=True):
            for alpha in options.alphas:
                part = curve[(curve["z_clip"] == clip) & (curve["alpha"] == alpha)]
                ax.loglog(part["updates"], part["max_error"], label=f"alpha = {alpha:g}")
            ax.set(title=f"z_clip = {clip}", xlabel="updates")
        axes[0].set(ylabel="largest |V - V*|")
        axes[0].legend(fontsize="small")

    sheet = study.plain_sheet("V and its closed form", header, body, notes)
    return study.Study("v_closed_form", sheet, lines, draw, (9, 4.5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    parts = [(clip, *train(options, clip)) for clip in CLIPS]
    lines = pd.concat([numbers(options, clip, found) for clip, found, _ in parts])
    study.write_study(report(options, lines, pd.concat([curve for *_, curve in parts])), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
