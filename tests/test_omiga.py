"""Closed-form checks of OMIGA (section 11 of its specification) and the recorded updates of the authors' code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.modules.policies import tanh_gaussian_log_prob
from marlzoo.modules.teams import LinearMixer, LinearMixing
from marlzoo.replicas import Init
from marlzoo.spec import Spec
from tests.golden_check import main, replay

GOLDEN = Path(__file__).parent / "golden"
DOUBLE = torch.float64


class Constant(nn.Module):
    """A network that ignores its input and returns a table, ``[R, B, N, F]``."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.to(DOUBLE))

    def forward(self, *_: Tensor) -> Tensor:
        return self.values


class ConstantMixer(LinearMixing):
    """Fixed weights ``[R, B, N]`` and bias ``[R, B]``."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.to(DOUBLE)), nn.Parameter(bias.to(DOUBLE))

    def coefficients(self, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias


def tabular(
    q: Any,
    v: Any,
    w: Any,
    *,
    b: float = 0.0,
    alpha: float = 1.0,
    reward: float = 0.0,
    mask: float = 1.0,
    **more: Any,
) -> tuple[Algorithm, Batch]:
    """Discrete OMIGA with tables for networks: B rows of N agents with ``q, v, w [B, N]``; one action each."""
    q, v, w = (torch.tensor(x, dtype=DOUBLE)[None] for x in (q, v, w))
    _, rows, n = q.shape
    spec = Spec(n, 1, 1, "discrete", 1, 10)
    algorithm = marlzoo.make("omiga", spec, dtype=DOUBLE, alpha=alpha, grad_clip=math.inf, **more)
    algorithm.q, algorithm.target_q = Constant(q[..., None]), Constant(q[..., None])
    algorithm.v, algorithm.target_v = Constant(v[..., None]), Constant(v[..., None])
    bias = torch.full((1, rows), b)
    algorithm.mixer, algorithm.target_mixer = ConstantMixer(w, bias), ConstantMixer(w, bias)
    algorithm.add_optimizer(policy=algorithm.actor, q=(algorithm.q, algorithm.mixer), v=algorithm.v)
    zeros = torch.zeros(1, rows, n, 1, dtype=DOUBLE)
    batch = Batch.of(
        obs=zeros,
        next_obs=zeros,
        state=zeros[..., 0, :],
        next_state=zeros[..., 0, :],
        action=torch.zeros(1, rows, n, dtype=torch.int64),
        reward=torch.full((1, rows), reward, dtype=DOUBLE),
        mask=torch.full((1, rows), mask, dtype=DOUBLE),
    )
    return algorithm, batch


def v_gradient(algorithm: Algorithm, batch: Batch) -> tuple[float, Tensor]:
    """V's loss, and its gradient with respect to V, read off the first moment of Adam's first step."""
    loss = algorithm.update(batch)["v/loss"].item()
    return loss, algorithm._optimizers["v"].first[0].flatten() / 0.1


@pytest.mark.parametrize(
    ("w", "alpha", "expected"),
    [
        (2.0, 1.0, 0.71689),
        (1.0, 10.0, 0.512495),
        (0.5, 1.0, 0.561860),
        (1.0, 1.0, 0.620115),
        (1.0, 0.2, 0.862714),  # nearer to the largest value, 1
    ],
)
def test_v_converges_to_its_closed_form(w: float, alpha: float, expected: float) -> None:
    """V* = (alpha / w) log mean_a exp(w Q(a) / alpha), Q = (0, 1); weights there have mean 1 (checks 1, 2)."""
    spec = Spec(1, 1, 1, "discrete", 2, 10)
    algorithm = marlzoo.make("omiga", spec, dtype=DOUBLE, alpha=alpha, lr=1e-2, tau=0.0, gamma=0.0)
    table = Constant(torch.tensor([[[[0.0, 1.0]]]]).expand(1, 2, 1, 2).clone())
    algorithm.q, algorithm.target_q = table, Constant(table.values.detach())

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return self.value.view(1, 1, 1, 1).expand(1, 2, 1, 1)

    algorithm.v, algorithm.target_v = Shared(), Shared()
    mixer = ConstantMixer(torch.full((1, 2, 1), w), torch.zeros(1, 2))
    algorithm.mixer = algorithm.target_mixer = mixer
    algorithm.add_optimizer(policy=algorithm.actor, q=(algorithm.q, algorithm.mixer), v=algorithm.v)
    zeros = torch.zeros(1, 2, 1, 1, dtype=DOUBLE)
    batch = Batch.of(
        obs=zeros,
        next_obs=zeros,
        state=zeros[..., 0],
        next_state=zeros[..., 0],
        action=torch.tensor([[[0], [1]]]),
        reward=torch.zeros(1, 2, dtype=DOUBLE),
        mask=torch.zeros(1, 2, dtype=DOUBLE),
    )
    # The v group only: the others would move the tables.
    algorithm.step = lambda **losses: Algorithm.step(algorithm, v=losses["v"])  # type: ignore[method-assign]
    for step in range(400):
        algorithm._optimizers["v"].lr.fill_(5e-2 * 0.982**step)
        algorithm.update(batch)
    value = algorithm.v.value.item()
    assert value == pytest.approx(expected, abs=2e-5)
    weights = [math.exp(w / alpha * (q - value)) for q in (0.0, 1.0)]
    assert np.mean(weights) == pytest.approx(1.0, abs=1e-4)
    if (w, alpha) == (2.0, 1.0):
        assert weights == pytest.approx([0.23841, 1.76159], abs=1e-4)
    if (w, alpha) == (1.0, 1.0):
        assert weights[1] / sum(weights) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-4)
    if (w, alpha) == (1.0, 10.0):
        assert weights == pytest.approx([0.95004, 1.04996], abs=1e-4)


def test_alpha_limits() -> None:
    """Large alpha: weights 1, the policy's loss is BC's (check 3)."""
    algorithm, batch = tabular([[0.5, -2.0]], [[0.2, 0.1]], [[1.0, 1.0]], alpha=1e9)
    assert algorithm.update(batch)["policy/loss"].item() == pytest.approx(0.0, abs=1e-7)  # one action: log 1
    algorithm, batch = tabular([[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]], alpha=1e9)
    loss, gradient = v_gradient(algorithm, batch)
    assert loss == pytest.approx(1.0, abs=1e-6)
    assert gradient.abs().max() < 1e-8


def test_stabilisation_is_a_rescale() -> None:
    """Check 4: one row, three agents, w = 1.3, alpha = 2."""
    arguments = ([[0.5, -2.0, 3.0]], [[0.2, 0.1, -0.4]], [[1.3, 1.3, 1.3]])
    stable, batch = tabular(*arguments, alpha=2.0)
    plain, _ = tabular(*arguments, alpha=2.0, stabilize_v=False)
    (loss_s, grad_s), (loss_p, grad_p) = v_gradient(stable, batch), v_gradient(plain, batch)
    assert (loss_s, loss_p) == pytest.approx((0.384735, 3.507136), abs=1e-6)
    torch.testing.assert_close(grad_s, math.exp(-2.21) * grad_p)
    assert math.exp(-2.21) == pytest.approx(0.109701, abs=1e-6)


def test_floor() -> None:
    """Check 5: a single z = -3 meets the floor m = -1."""
    loss, gradient = v_gradient(*tabular([[-3.0]], [[0.0]], [[1.0]]))
    assert loss == pytest.approx(0.135335, abs=1e-6)
    assert gradient.item() == pytest.approx(2.582947, abs=1e-6)


@pytest.mark.parametrize(("q", "hard"), [(9.0, -0.999877), (11.0, 4.53999e-5), (12.0, 4.53999e-5)])
def test_clip_artefact(q: float, hard: float) -> None:
    """Check 6: above the bound the hard clip has the wrong sign, the linear one the right one."""
    _, gradient = v_gradient(*tabular([[q]], [[0.0]], [[1.0]]))
    assert gradient.item() == pytest.approx(hard, abs=1e-6)
    _, gradient = v_gradient(*tabular([[q]], [[0.0]], [[1.0]], z_clip="linear"))
    assert gradient.item() < 0
    _, gradient = v_gradient(*tabular([[q]], [[0.0]], [[1.0]], z_clip="none"))
    assert gradient.item() < 0


def test_product_of_local_weights_is_the_global_weight() -> None:
    """Check 7, on the weights that the policy's loss uses."""
    q, v, w, b, alpha = [1.0, 2.0], [0.5, 2.5], [0.4, 0.8], 0.3, 0.5
    local = [math.exp(wi * (qi - vi) / alpha) for wi, qi, vi in zip(w, q, v, strict=True)]
    total = math.exp((np.dot(w, q) + b - np.dot(w, v) - b) / alpha)
    assert np.prod(local) == pytest.approx(total)
    assert total == pytest.approx(0.670320, abs=1e-6)
    # Two rows with different log probabilities would mix them; one agent at a time shows its weight.
    algorithm, batch = tabular([q], [v], [w], b=b, alpha=alpha)
    algorithm.data_log_prob = lambda output, batch: torch.tensor([[[1.0, 0.0]]], dtype=DOUBLE)  # type: ignore[method-assign]
    algorithm.step = lambda **losses: {}  # type: ignore[method-assign]
    assert algorithm.update(batch)["policy/loss"].item() == pytest.approx(-local[0] / 2)


def test_tanh_log_density() -> None:
    """Check 8, and the density integrates to one."""

    def density(mean: float, log_std: float, action: float, dtype: torch.dtype = DOUBLE) -> float:
        values = (torch.tensor([x], dtype=dtype) for x in (mean, log_std, action))
        return tanh_gaussian_log_prob(*values).item()

    assert density(0, 0, 0) == pytest.approx(-0.918939, abs=1e-6)
    assert density(0, 0, 0.5) == pytest.approx(-0.782125, abs=1e-6)
    assert density(0.3, -1, -0.4) == pytest.approx(-1.679290, abs=1e-6)
    assert density(0, 0, 1.5) == density(0, 0, 1 - 1e-7) == pytest.approx(-20.821225, abs=1e-5)
    assert density(0, 0, 1.5, torch.float32) == pytest.approx(-20.262318, abs=2e-5)
    assert density(100, 2, 0.5) == density(9, 2, 0.5) == pytest.approx(-3.285255, abs=1e-6)
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 200_001, dtype=DOUBLE)
    values = tanh_gaussian_log_prob(
        torch.full_like(grid, 0.3)[:, None], torch.full_like(grid, -0.5)[:, None], grid[:, None]
    )
    assert torch.trapezoid(values.exp(), grid).item() == pytest.approx(1.0, abs=1e-4)


def test_log_std_is_clipped_and_padding_does_not_count() -> None:
    spec = Spec(2, 3, 4, "continuous", 2, 10, action_sizes=(2, 1))
    algorithm = marlzoo.make("omiga", spec, hidden=8, dtype=DOUBLE)
    algorithm.actor.log_std.bias.data.fill_(50.0)
    _, log_std = algorithm.actor(torch.zeros(1, 1, 2, 5, dtype=DOUBLE))
    assert log_std.max().item() == 2.0
    mean, log_std, action = torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[0.5, 0.5], [0.5, 0.9]])
    value = tanh_gaussian_log_prob(mean, log_std, action, algorithm.action_dimensions.float())
    assert value.tolist() == pytest.approx([2 * -0.782125, -0.782125], abs=1e-5)


def test_mixer() -> None:
    """Check 9: weights never negative, dQ_tot/dQ_i = w_i; and the mixed value."""
    mixer = LinearMixer(Init([0, 1], dtype=DOUBLE), 6, 16, 3)
    state = torch.randn(2, 50, 6, dtype=DOUBLE) * 100
    w, _ = mixer.coefficients(state)
    assert (w >= 0).all()
    q = torch.randn(2, 50, 3, dtype=DOUBLE, requires_grad=True)
    mixer(q, state).sum().backward()
    torch.testing.assert_close(q.grad, w)
    algorithm, batch = tabular([[3.0, -1.0]], [[0.0, 0.0]], [[0.5, 2.0]], b=0.25)
    assert algorithm.update(batch)["q/total"].item() == pytest.approx(-0.25)


@pytest.mark.parametrize(("mask", "expected"), [(1.0, 1.2475), (0.0, 1.0)])
def test_td_target(mask: float, expected: float) -> None:
    """Check 11."""
    algorithm, batch = tabular([[0.0, 0.0]], [[2.0, -0.5]], [[0.5, 2.0]], b=0.25, reward=1.0, mask=mask)
    assert algorithm.update(batch)["q/target_total"].item() == pytest.approx(expected)


def omiga_rows(d: list[int]) -> Dataset:
    """The dataset that a file with these end flags means (one agent, one action)."""
    rows = len(d)
    ends = np.array(d, bool)
    starts = np.concatenate(([0], np.flatnonzero(ends)[:-1] + 1 if ends[-1] else np.flatnonzero(ends) + 1))
    terminal = np.zeros(rows, bool)
    terminal[np.flatnonzero(ends) - 1] = True
    zeros = np.zeros((rows, 1, 1), np.float32)
    return Dataset.create(
        Spec(1, 1, 1, "continuous", 1, 1000),
        obs=np.arange(rows, dtype=np.float32)[:, None, None],
        action=zeros,
        reward=np.arange(1, rows + 1, dtype=np.float32),
        terminal=terminal,
        truncated=np.zeros(rows, bool),
        starts=starts,
        card=Card(),
    )


@pytest.mark.parametrize(
    ("d", "kept", "masks"),
    [([0, 0, 1, 0, 0, 0, 1], [0, 1, 3, 4, 5], [1, 0, 1, 1, 0]), ([0, 0, 0], [0, 1], [1, 1])],
)
def test_transitions(d: list[int], kept: list[int], masks: list[int]) -> None:
    """Check 10: which rows are transitions, and where the next value counts."""
    fields = ("obs", "next_obs", "mask", "reward")
    sampler = Sampler(omiga_rows(d), [0], batch_size=64, fields=fields, timeout_is_terminal=True)
    seen: dict[int, float] = {}
    for _ in range(5):
        batch = sampler.next()
        torch.testing.assert_close(batch.next_obs, batch.obs + 1)
        seen |= dict(zip(batch.obs.flatten().int().tolist(), batch.mask.flatten().tolist(), strict=True))
    assert sorted(seen) == kept
    assert [seen[row] for row in kept] == masks


def test_return_to_go_only_on_request() -> None:
    """Check 10: rewards (1, 2, 3) stay what they are unless ``reward_mode = "rtg"`` makes them (6, 5, 3)."""
    data = omiga_rows([0, 0, 0, 1])
    for mode, expected in (("reward", {0: 1, 1: 2, 2: 3}), ("rtg", {0: 6, 1: 5, 2: 3})):
        sampler = Sampler(data, [0], batch_size=64, fields=("obs", "reward"), reward_mode=mode)
        batch = sampler.next()
        seen = dict(zip(batch.obs.flatten().int().tolist(), batch.reward.flatten().tolist(), strict=True))
        assert seen == expected


def test_ends_told_by_equal_states() -> None:
    """``smac_done = "state_equal"``: an end wherever a state repeats in every entry, and only there."""
    algorithm = marlzoo.make("omiga", Spec(1, 1, 2, "discrete", 2, 9), smac_done="state_equal", hidden=4)
    state, next_state = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]]), torch.tensor([[[1.0, 2.0], [1.0, 3.0]]])
    batch = Batch.of(state=state, next_state=next_state, mask=torch.tensor([[1.0, 0.0]]))
    assert algorithm._mask(batch).tolist() == [[0.0, 1.0]]


def test_no_leakage() -> None:
    """Check 12: V's loss reaches V only, the policy's the policy only."""
    from tests.toys import toy_dataset, toy_spec

    for kind in ("continuous", "discrete"):
        algorithm = marlzoo.make("omiga", toy_spec(kind), hidden=8, mixer_hidden=4)
        losses: dict[str, Tensor] = {}

        def capture(into: dict[str, Tensor] = losses, **given: Tensor) -> dict[str, Tensor]:
            into.update(given)
            return {}

        algorithm.step = capture  # type: ignore[method-assign]
        data = toy_dataset(kind)
        batch = Sampler(data, [0], batch_size=8, fields=algorithm.fields).next()
        algorithm.update(batch)
        modules = {"policy": algorithm.actor, "q": algorithm.q, "mixer": algorithm.mixer, "v": algorithm.v}
        allowed = {"policy": {"policy"}, "q": {"q", "mixer"}, "v": {"v"}}
        for name, loss in losses.items():
            for other, module in modules.items():
                grads = torch.autograd.grad(
                    loss.sum(), list(module.parameters()), retain_graph=True, allow_unused=True
                )
                reached = any(g is not None and bool(g.abs().max() > 0) for g in grads)
                assert reached == (other in allowed[name]), (kind, name, other)


def test_without_global_weights_the_mixer_does_not_scale_the_advantage() -> None:
    """The paper's ablation: with w = 5 in the mixer, z and V's loss use 1."""
    without, batch = tabular([[1.0]], [[0.5]], [[5.0]], global_weights=False)
    one, _ = tabular([[1.0]], [[0.5]], [[1.0]])
    assert v_gradient(without, batch)[0] == pytest.approx(v_gradient(one, batch)[0])
    with_global, _ = tabular([[1.0]], [[0.5]], [[5.0]])
    assert v_gradient(with_global, batch)[0] != pytest.approx(v_gradient(one, batch)[0])


def test_weight_cap() -> None:
    algorithm, batch = tabular([[3.0]], [[0.0]], [[1.0]], weight_cap=2.0)
    algorithm.data_log_prob = lambda output, batch: torch.ones(1, 1, 1, dtype=DOUBLE)  # type: ignore[method-assign]
    algorithm.step = lambda **losses: {}  # type: ignore[method-assign]
    assert algorithm.update(batch)["policy/loss"].item() == pytest.approx(-2.0)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("omiga_*.npz")), ids=lambda f: f.stem)
@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_recorded_updates(file: Path, precision: str, replicas: int) -> None:
    assert replay(file, precision, replicas).failed == []


def test_golden_check_fails_on_other_numbers(tmp_path: Path) -> None:
    with np.load(GOLDEN / "omiga_continuous_A1.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["f64.after04.q.fc2.weight"] = arrays["f64.after04.q.fc2.weight"] * (1 + 1e-6)
    np.savez(tmp_path / "altered.npz", **arrays)
    assert main([str(tmp_path / "altered.npz")]) == 1
    assert main([str(GOLDEN / "omiga_discrete_B1.npz")]) == 0


def test_golden_check_reads_pools_and_checksums_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The continuous recording again, as rows of a pool, with sums in place of parameters and one array unknown."""
    with np.load(GOLDEN / "omiga_continuous_A1.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if not name.startswith("f32")}
    for name in [name for name in arrays if name.startswith("batch.")]:
        value = arrays.pop(name)
        arrays[f"pool.{name.removeprefix('batch.')}"] = value.reshape(-1, *value.shape[2:])[::-1]
    arrays["batch_index"] = np.arange(12 * 32)[::-1].reshape(12, 32)
    for name in [name for name, x in arrays.items() if name.startswith("f64.after04") and x.size > 2]:
        value = arrays[name]
        arrays[name] = np.array([value.sum(), np.square(value).sum()])
    arrays["f64.other.thing"] = np.zeros(3)
    np.savez(tmp_path / "pool.npz", **arrays)
    assert main([str(tmp_path / "pool.npz")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"not compared: .*f64\.other\.thing", out)
    assert "f64.after04" not in out
    arrays["f64.after04.q.fc2.weight"] = arrays["f64.after04.q.fc2.weight"] * (1 + 1e-6)
    np.savez(tmp_path / "altered.npz", **arrays)
    assert main([str(tmp_path / "altered.npz")]) == 1


def test_golden_check_refuses_other_layouts_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "other.npz", **{"init.x": np.zeros(3), "meta.alpha": np.float64(10)})
    (tmp_path / "text.npz").write_text("no arrays")
    for name, expected in (
        ("other", "lacks meta.gamma"),
        ("text", "cannot be read as npz"),
        ("no", "cannot be"),
    ):
        assert main([str(tmp_path / f"{name}.npz")]) == 2
        out = capsys.readouterr().out
        assert expected in out
        assert out.count("\n") == 1


def test_agents_stay_uniform_where_the_reward_depends_on_both_alone() -> None:
    """Check 13: 1 where two actions differ, all four pairs equally often; the best sum of values is constant."""
    pairs = [(a, b) for a in range(2) for b in range(2)] * 16
    one = np.ones((2, 2, 1))
    data = Dataset.from_episodes(
        [{"obs": one, "action": [list(p)], "reward": [float(p[0] != p[1])], "terminal": True} for p in pairs]
    )
    small: dict[str, Any] = {"hidden": 16, "mixer_hidden": 8, "lr": 1e-2, "tau": 0.1, "batch_size": 256}
    algorithm: Any = marlzoo.make("omiga", data.spec, seeds=(0, 0), alpha=[0.1, 1.0], **small)
    sampler = Sampler([data, data], [0, 0], batch_size=256, fields=algorithm.fields)
    for _ in range(120):
        algorithm.update(sampler.next())
    seen = torch.cat((torch.ones(2, 1, 2, 1), torch.eye(2).expand(2, 1, 2, 2)), -1)
    chance = torch.softmax(algorithm.policy().scores(seen), -1).detach()
    torch.testing.assert_close(chance, torch.full_like(chance, 0.5), atol=0.08, rtol=0)
