"""Meanings of every method's metrics; their names are found by an update of each of its stages."""

from __future__ import annotations

from fnmatch import fnmatch
from functools import cache

from marlzoo.testing import cases

from .text import code, table

# The first pattern that fits a name tells its meaning. "METHOD:NAME" is for one method alone.
MEANINGS = {
    "value/data_mean": "Mean value of the data's team actions, on the scale of the team's return. Compare it with "
    "the discounted returns of the data: a method that weighs or extends the data by its values needs it near them.",
    "weight/ess": "Effective sample size of the policy's weights, as a share of the batch. 1: all weights are equal, "
    "so the policy is behavior cloning.",
    "weight/exponent_q*": "Quantile of the exponent of the policy's weights over the batch.",
    "policy/data_log_prob": "Mean log probability (density) of the data's actions under the policy, per agent.",
    "policy/saturation": "Share of the policy's action entries that lie at the bounds of the box.",
    "grad_norm/*": "Norm of the gradient of this group of parameters, before clipping.",
    "critic/action_distance": "Mean distance of the chosen rows' actions from the target policies'.",
    "critic/priority_ess": "Effective sample size of the priorities, as a share of the candidates.",
    "alberdice:policy/alpha": "Present weight of the divergence, while it is annealed.",
    "alberdice:policy/rho": "Mean ratio of the other agents' policies to the data's, before normalization.",
    "alberdice:policy/kappa": "Mean divergence of the other agents' policies from the data's.",
    "alberdice:data/loss": "Negative log likelihood of the models of the data's policy.",
    "alberdice:e/loss": "Loss of the advantage network, its conservative term included.",
    "b3c:q/clipped": "Share of targets at the cap, the largest return of the data.",
    "bcq_ma:clone/loss": "Negative log likelihood of the model of the data's actions (discrete).",
    "bcq_ma:vae/loss": "Reconstruction error of the model of the data's actions (continuous).",
    "bcq_ma:vae/kl": "Divergence of the model's latent variable from its prior (continuous).",
    "cfcql:behavior/loss": "Negative log likelihood of the model of the data's policy (discrete).",
    "comadice:weight/omega": "Mean occupancy correction of an agent; 1 where the policy keeps the data's occupancy.",
    "focal:encoder/loss": "Loss of the encoder: pull and push, times the weight.",
    "focal:encoder/pull": "Mean size of the distance between codes of one task.",
    "focal:encoder/push": "Mean inverse distance between codes of different tasks.",
    "happo:policy/compound_ratio": "Mean product of the probability ratios of the agents updated before.",
    "hatrpo:policy/compound_ratio": "Mean product of the probability ratios of all agents' steps.",
    "hatrpo:policy/kl": "Mean divergence of the new policies from the old ones, over agents (0: no step was taken).",
    "hatrpo:policy/accepted": "Share of agents whose step the line search took.",
    "hatrpo:policy/step_scale": "Mean length of the steps taken, relative to the full step (0 where none was taken).",
    "hatrpo:policy/gain": "Mean improvement of the agents' surrogates.",
    "icq:weight/max": "Largest weight of a sample.",
    "inspo:policy/alpha": "Present strength of the pull towards the data, while it is annealed.",
    "inspo:policy/beta": "Present weight of the entropy, while it is annealed.",
    "inspo:behavior/loss": "Negative log likelihood of the models of the data's policies.",
    "inspo:policy/kappa": "Mean divergence of the other agents' policies from the data's.",
    "inspo:q/soft_value": "Mean soft value of the best answer to the others.",
    "mac_flow:flow/loss": "Squared distance of the flow's velocity from the straight way to the data.",
    "mac_flow:student/loss": "Loss of the one-step policies.",
    "mac_flow:student/distillation": "Distance of the one-step policies from the flow's actions, summed over agents.",
    "mabcq:behavior/loss": "Loss of the model of the data's actions: clone (discrete) or autoencoder (continuous).",
    "mabcq:mean/loss": "Squared error of the expected value of what follows.",
    "mabcq:density/loss": "Negative evidence bound of the model of next observations, per entry (0 for counts).",
    "mabcq:mean/next_value": "Mean value V of what followed.",
    "mabcq:mean/deviation": "Mean distance of that value from its expectation M, relative to the latter.",
    "madiff:model/diffusion_loss": "Squared error of the predicted noise where the plan is not known.",
    "madiff:model/inverse_loss": "Error of the actions that are inferred from consecutive observations.",
    "moma_ppo:world/loss": "Negative log likelihood of the world model's predictions (first stage).",
    "moma_ppo:world/held_out_error": "Squared error of the model's predictions on held-out episodes (first stage).",
    "moma_ppo:world/reward": "Mean reward that the world model predicts in rollouts.",
    "moma_ppo:world/penalty": "Mean penalty of uncertain steps, which is subtracted from these rewards.",
    "moma_ppo:world/rollout_ends": "Share of steps at which a rollout ends.",
    "moma_ppo:policy/bound_loss": "Squared distance of the policy's means beyond the bounds of the box.",
    "moma_ppo:policy/entropy": "Entropy of the team's policy, estimated from the rollouts' actions.",
    "moma_ppo:policy/alpha": "Weight of the entropy, which is adapted to its target.",
    "omiga:weight/exponent_max": "Largest exponent of the policy's weights, before it is bounded.",
    "om2p:flow/loss": "Squared distance of the mean velocity from what makes it consistent.",
    "omsd:behavior/loss": "Squared error of the noise that is predicted in the data's actions (first stage).",
    "omsd:policy/pull": "Mean size of the pull towards the data by their score (second stage).",
    "omsd:critic/total": "Mean value of the policies' team actions (second stage).",
    "iddpg_bc:policy/lambda": "Scale of the value term beside the cloning term.",
    "td3_bc:policy/lambda": "Scale of the value term beside the cloning term.",
    "policy/bc_loss": "Squared distance of the policy's actions from the data's.",
    "nu/loss": "Loss of the Lagrange multipliers nu.",
    "*/penalty": "Conservative penalty, before its weight.",
    "q/loss": "Loss of the Q networks and the mixer.",
    "critic/loss": "Loss of the critics; of the methods on PPO, of the value network.",
    "v/loss": "Loss of the V networks.",
    "policy/loss": "Loss of the policy.",
    "*/total": "Mean Q_tot of the data's actions.",
    "*/target_total": "Mean target of Q_tot.",
    "*/target": "Mean target of the critics.",
    "*/mean": "Mean value of the data's actions.",
    "weight/mean": "Mean weight of the data's actions in the policy's loss.",
    "critic/explained_variance": "Share of the returns' variance that the value network explains.",
    "policy/std": "Mean standard deviation of the policy's actions (0 for discrete ones).",
}


@cache
def metrics_of(method: str) -> tuple[str, ...]:
    """Names of the metrics that a method logs in any of its forms, sorted."""
    found: set[str] = set()
    for case in cases(method):
        for stage, _ in enumerate(case.learner().stages()):  # of the small learners each lasts one update
            found |= set(case.updated(case.learner(), stage + 1))
    return tuple(sorted(found))


def meaning(method: str, metric: str) -> str:
    """What a metric tells.

    Raises:
        KeyError: nothing is written about it.
    """
    for pattern, text in MEANINGS.items():
        owner, _, name = pattern.rpartition(":")
        if owner in ("", method) and fnmatch(metric, name):
            return text
    raise KeyError(f"docs/_generate/metrics.py: write what the metric {metric!r} of {method} means")


def metrics_table(method: str) -> str:
    """All metrics of a method with their meanings."""
    rows = [[code(name), meaning(method, name)] for name in metrics_of(method)]
    return table(["metric", "meaning"], rows)
