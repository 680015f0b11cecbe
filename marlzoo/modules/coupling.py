"""Pairs of noise and data for flows: each part of the noise belongs to one mode of the data.

Noise and data that are drawn independently of each other teach a flow some smooth map. With semi-discrete optimal
transport every noise vector belongs to exactly one mode of the joint actions that are found in its context, and each
mode gets as much noise as it has data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from marlzoo.batch import take_rows
from marlzoo.replicas import Init, derive

ROWS = 20_000  # of the data, at most, that modes are looked for in
SMALLEST = 0.02  # share of a context's data below which a mode is joined to its nearest
MEMBERS = 64  # actions that are kept of each mode
NOISE = 4096  # vectors that the potentials are fitted to
STEPS = 500  # of the potentials
RATE = 0.05  # step size of the potentials


def potentials(points: Tensor, mass: Tensor, noise: Tensor, steps: int = STEPS) -> Tensor:
    """Potentials g with which each point is nearest, by ``|z - y_k|^2 - g_k``, to its share of the noise.

    They maximize ``sum_k b_k g_k + mean_z min_k (|z - y_k|^2 - g_k)``, whose derivative is b_k minus the share of the
    noise that k has: Adam with a falling step size.

    Args:
        points: y, ``[..., K, X]``.
        mass: b, ``[..., K]``, of sum 1; points with none get no noise.
        noise: z, ``[Z, X]``.
        steps: of the ascent.

    Returns:
        ``[..., K]``, of mean 0 over the points with mass; minus infinity for those without.
    """
    there = mass > 0
    cost = (noise.square().sum(-1, keepdim=True) + points.square().sum(-1).unsqueeze(-2)) - 2.0 * (
        noise @ points.mT
    )
    cost = cost.masked_fill(~there.unsqueeze(-2), torch.inf)
    g = torch.zeros_like(mass)
    first = torch.zeros_like(mass)
    second = torch.zeros_like(mass)
    each = torch.full(cost.shape[:-1], 1.0 / len(noise), dtype=mass.dtype)  # the share of one vector
    for k in range(steps):
        nearest = (cost - g.unsqueeze(-2)).argmin(-1)
        slope = mass - torch.zeros_like(mass).scatter_add(-1, nearest, each)
        first = torch.lerp(first, slope, 0.1)
        second = torch.lerp(second, slope.square(), 0.01)
        size = (second / (1.0 - 0.99 ** (k + 1))).sqrt() + 1e-8
        g = g + RATE * (1.0 - k / steps) * first / (1.0 - 0.9 ** (k + 1)) / size
    mean = (g * there).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
    return (g - mean).masked_fill(~there, -torch.inf)


class ModeCoupling(nn.Module):
    """Joint actions that belong to noise in a context.

    Args:
        init: says where the numbers live.
        n_context: F, features that contexts are told by.
        size: X, of a joint action.
        contexts: C, at most, groups of alike observations.
        modes: K, at most, groups of alike joint actions in a context.
    """

    center: Tensor
    spread: Tensor
    point: Tensor
    potential: Tensor
    member: Tensor

    def __init__(self, init: Init, n_context: int, size: int, contexts: int, modes: int) -> None:
        super().__init__()
        self.contexts = contexts
        self.modes = modes
        shapes = {
            "center": (contexts, n_context),
            "spread": (1, n_context),
            "point": (contexts, modes, size),
            "potential": (contexts, modes),
            "member": (contexts, modes, MEMBERS, size),
        }
        for name, shape in shapes.items():
            zeros = torch.zeros((init.replicas, *shape), dtype=init.dtype, device=init.device)
            self.register_buffer(name, zeros)

    def read(self, replica: int, seed: int, context: NDArray[Any], action: NDArray[Any]) -> None:
        """Find contexts and modes of one replica's data: ``context [rows, F]``, ``action [rows, X]``."""
        rng = np.random.default_rng(derive(seed, "modes"))
        rows = np.sort(rng.permutation(len(context))[:ROWS])
        spread = context.std(0)
        spread[~(spread > 1e-6)] = 1.0  # what never changes
        center, labels = group_rows(context[rows] / spread, self.contexts, rng)
        mass = np.zeros((len(center), self.modes))
        points = np.zeros((len(center), self.modes, action.shape[1]))
        # Centers beyond those found repeat the first one, which wins every tie.
        self._set(
            "center", replica, np.concatenate((center, center[:1].repeat(self.contexts - len(center), 0)))
        )
        self._set("spread", replica, spread[None])
        for c in range(len(center)):
            inside = action[rows[labels == c]]
            found, mode = without_small(*group_rows(inside, self.modes, rng))
            mass[c, : len(found)] = np.bincount(mode, minlength=len(found)) / len(mode)
            for k in range(len(found)):
                own = inside[mode == k]
                points[c, k] = own.mean(0)
                self._set("member", (replica, c, k), own[rng.integers(0, len(own), MEMBERS)])
        # Half of the noise is the other half mirrored, so that equal modes share evenly.
        half = rng.normal(size=(NOISE // 2, action.shape[1]))
        noise = np.concatenate((half, -half))
        target, share, drawn = (torch.as_tensor(a).to(self.point.dtype) for a in (points, mass, noise))
        fitted = potentials(target, share, drawn)
        self.point[replica, : len(center)] = torch.as_tensor(points).to(self.point)
        unused = np.where(np.arange(self.modes) == 0, 0.0, -np.inf)  # of contexts that were not found
        self._set("potential", replica, unused)
        self.potential[replica, : len(center)] = fitted.to(self.potential)

    def forward(self, context: Tensor, noise: Tensor, drawn: Tensor) -> Tensor:
        """An action of the mode that noise belongs to.

        Args:
            context: ``[R, M, F]``.
            noise: ``[R, M, X]``.
            drawn: which of the mode's actions, uniform on [0, 1), ``[R, M]``.

        Returns:
            ``[R, M, X]``.
        """
        scaled = context / self.spread
        gap = self.center.square().sum(-1).unsqueeze(1) - 2.0 * scaled @ self.center.mT
        place = gap.argmin(-1)  # [R, M]
        mode = self.mode(place, noise)
        index = (place * self.modes + mode) * MEMBERS + (drawn * MEMBERS).long()
        return take_rows(self.member.flatten(1, 3), index)

    def mode(self, place: Tensor, noise: Tensor) -> Tensor:
        """The mode that noise ``[R, M, X]`` belongs to in the contexts ``place [R, M]``, int64 ``[R, M]``."""
        cost = (noise.unsqueeze(-2) - take_rows(self.point, place)).square().sum(-1)
        return (cost - take_rows(self.potential, place)).argmin(-1)

    def _set(self, name: str, place: Any, value: NDArray[Any]) -> None:
        buffer: Tensor = getattr(self, name)
        buffer[place] = torch.as_tensor(value).to(buffer)


def group_rows(rows: NDArray[Any], most: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Groups of alike rows, or of equal ones where at most ``most`` differ.

    Args:
        rows: ``[M, F]``; what is not a number is grouped as 0 and shows in training.
        most: groups, at most.
        rng: of the start of k-means.

    Returns:
        Centers ``[G, F]``, and each row's group ``[M]``.
    """
    rows = np.nan_to_num(rows.astype(np.float64))
    centers: NDArray[Any]
    labels: NDArray[Any]
    centers, labels = np.unique(rows, axis=0, return_inverse=True)
    if len(centers) > most:
        centers, labels = kmeans2(rows, most, iter=20, minit="++", rng=rng)
    used, labels = np.unique(labels.reshape(-1), return_inverse=True)  # k-means may leave groups empty
    return centers[used], labels.reshape(-1)


def without_small(
    centers: NDArray[Any], labels: NDArray[Any], smallest: float = SMALLEST
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Groups of less than a share of the rows joined to their nearest larger one."""
    share = np.bincount(labels, minlength=len(centers)) / len(labels)
    large = np.flatnonzero(share >= min(smallest, share.max()))
    gaps: NDArray[Any] = np.square(centers[:, None] - centers[large][None]).sum(-1)
    return centers[large], gaps.argmin(1)[labels]


def joint_actions(data: Any, used: NDArray[Any], one_hots: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Joint observations ``[rows, N O]`` and actions ``[rows, N A]`` of a dataset's steps.

    Args:
        data: a :class:`marlzoo.data.dataset.Dataset`.
        used: ``[N, A]``, 0 for padding.
        one_hots: A where actions are discrete, else 0.
    """
    rows = np.setdiff1d(np.arange(len(data.obs)), data.ends)
    action = np.asarray(data.action[rows])
    joint = np.eye(one_hots)[action] if one_hots else action * used
    return np.asarray(data.obs[rows]).reshape(len(rows), -1), joint.reshape(len(rows), -1)
