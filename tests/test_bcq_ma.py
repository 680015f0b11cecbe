"""BCQ-MA against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marlzoo.baselines._bcq import (
    LATENT_BOUND,
    VAE,
    BestAllowed,
    BestSample,
    Pair,
    Perturbation,
    allowed_actions,
)
from marlzoo.baselines.bcq_ma import BCQMA
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import MLP, RecurrentNet, with_agent_id
from marlzoo.modules.policies import RecurrentPolicy
from marlzoo.replicas import GivenRandom, Init, ReplicaRandom
from tests.fixed_nets import OBS, set_mixer, set_table, spec_of, transitions


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def init(seeds: tuple[int, ...] = (0,)) -> Init:
    return Init(seeds, dtype=torch.float64)


def continuous(n: int = 2, size: int = 2, **more: Any) -> BCQMA:
    settings = {"hidden": 8, "mixer_hidden": 4, "vae_hidden": 8, "batch_size": size, **more}
    algorithm = marlzoo.make(
        "bcq_ma", spec_of(n, 2, "continuous"), seeds=[0], dtype=torch.float64, **settings
    )
    assert isinstance(algorithm, BCQMA)
    return algorithm


def discrete(n: int = 1, actions: int = 2, **more: Any) -> BCQMA:
    settings = {"hidden": 8, "mixer_hidden": 4, "mixer": "vdn", "batch_size": 2, **more}
    algorithm = marlzoo.make("bcq_ma", spec_of(n, actions), seeds=[0], dtype=torch.float64, **settings)
    assert isinstance(algorithm, BCQMA)
    return algorithm


def noisy(algorithm: BCQMA, action: Any, **fields: Any) -> Batch:
    source = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(shape, generator=source) for name, (_, shape) in algorithm.noise().items()}
    return transitions(action, noise=noise, **fields)


def table(network: Any, values: Any, first_id: int = OBS) -> None:
    assert isinstance(network, MLP)
    set_table(network, values, first_id)


def test_perturbation_is_bounded_and_starts_from_the_action() -> None:
    xi = Perturbation(MLP(init(), (4, 8, 2)), f64(0.05))
    obs, action = torch.randn(1, 50, 2).double(), 2 * torch.rand(1, 50, 2).double() - 1
    with torch.no_grad():
        for layer in xi.network.layers:
            layer.weight.mul_(100)  # type: ignore[operator]
    moved = xi(obs, action).detach()
    assert float((moved - action).abs().max()) <= 0.05 + 1e-12
    assert float((moved - action).abs().max()) > 0.04
    assert float(moved.abs().max()) <= 1.0
    table(xi.network, ((0.0, 0.0),), first_id=0)
    torch.testing.assert_close(xi(obs, action), action)
    table(xi.network, ((3.0, -3.0),), first_id=0)
    moved = xi(torch.ones_like(obs), torch.zeros_like(action))
    torch.testing.assert_close(moved, 0.05 * f64(3.0, -3.0).tanh().expand_as(moved))


def test_vae_decodes_what_it_trains() -> None:
    vae = VAE(init((0, 1)), 5, 2, hidden=8, n_latent=4)
    condition, noise = torch.randn(2, 6, 3, 5).double(), torch.randn(2, 6, 3, 4).double()
    action = torch.randn(2, 6, 3, 2).double().tanh()
    recon, mean, log_std = vae(condition, action, noise)
    assert recon.shape == action.shape
    assert float(recon.detach().abs().max()) < 1.0
    # The decoder reads condition and latent in the same places in training and in sampling.
    torch.testing.assert_close(recon, vae.decode(condition, mean + log_std.exp() * noise))
    assert not torch.allclose(recon, vae.decode(condition, noise))


def test_size_of_the_latent() -> None:
    """Three agents with actions of two dimensions."""
    assert [continuous(n=3, vae_latent=form).vae.n_latent for form in ("2A", "2n")] == [4, 6]


@pytest.mark.parametrize(("form", "expected"), [("mean", 0.653427), ("sum", 4 * 0.653427)])
def test_divergence(form: str, expected: float) -> None:
    algorithm = continuous(vae_kl=form)
    assert algorithm.vae.n_latent == 4
    with torch.no_grad():
        for head, values in (
            (algorithm.vae.mean, f64(1, 0, 1, 0)),
            (algorithm.vae.log_std, f64(1, 2, 1, 2).log()),
        ):
            head.weight.zero_()
            head.bias.copy_(values.expand_as(head.bias))
    assert float(algorithm.update(noisy(algorithm, torch.zeros(2, 2, 2)))["vae/kl"]) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("mask", [0.0, 1.0])
@pytest.mark.parametrize("samples", [1, 10])
def test_target_takes_the_soft_minimum_and_mixes(mask: float, samples: int) -> None:
    algorithm = continuous(target_samples=samples)
    with torch.no_grad():
        for layer in algorithm.target_q.members.layers:
            layer.weight.zero_()  # type: ignore[operator]
        algorithm.target_q.members.layers[-1].bias.copy_(f64(2, 5).view(1, 2, 1, 1))  # type: ignore[operator]
    set_mixer(algorithm.target_mixer, (0.5, 2.0), 0.25)
    batch = noisy(algorithm, torch.zeros(2, 2, 2), reward=torch.ones(2), mask=torch.full((2,), mask))
    expected = 1 + mask * 0.99 * (2.5 * 2.75 + 0.25)
    assert float(algorithm.update(batch)["q/target_total"]) == pytest.approx(expected, abs=1e-9)


def test_target_is_the_best_of_the_samples() -> None:
    one, ten = continuous(target_samples=1, size=64), continuous(target_samples=10, size=64)
    batch = noisy(ten, torch.zeros(64, 2, 2))
    best = ten.update(batch)["q/target_total"]
    singles = []
    for k in range(10):
        fresh = continuous(target_samples=1, size=64)
        noise = {**batch.noise, "target": batch.noise["target"][:, k : k + 1]}
        fields = {name: getattr(batch, name) for name in one.fields}
        singles.append(fresh.update(Batch.of(noise, **fields))["q/target_total"])
    assert float(best) > float(torch.stack(singles).max())


def test_no_perturbation_and_a_constant_decoder_evaluate_a_constant_policy() -> None:
    algorithm = continuous(phi=0.0, min_weight=1.0)
    decoder = algorithm.vae.decoder
    table(decoder, ((0.3, -0.6),) * 2)
    set_mixer(algorithm.target_mixer, (1.0, 1.0), 0.0)
    batch = noisy(algorithm, torch.zeros(2, 2, 2))
    action = torch.tanh(f64(0.3, -0.6)).expand(1, 2, 2, 2)
    value = algorithm.target_q(with_agent_id(batch.next_obs), action).squeeze(-1).amin(1).sum(-1).mean()
    assert float(algorithm.update(batch)["q/target_total"]) == pytest.approx(0.99 * float(value), abs=1e-9)


def test_the_policys_loss_moves_the_perturbation_only() -> None:
    algorithm = continuous(kl_weight=0.0)
    batch = noisy(algorithm, torch.zeros(2, 2, 2))
    obs = with_agent_id(batch.obs)
    decoded = algorithm.vae.decode(obs, batch.noise["policy"].clamp(-LATENT_BOUND, LATENT_BOUND)).detach()
    q = algorithm.q(obs, algorithm.perturb(obs, decoded))[:, 0]
    metrics = algorithm.update(batch)
    assert float(metrics["policy/loss"]) == pytest.approx(-float(q.detach().mean()), abs=1e-9)


class Peak(Ensemble):
    """Values that prefer the action nearest to 0.3 (agent 0) or -0.4 (agent 1)."""

    def first(self, *parts: Tensor) -> Tensor:
        obs, action = parts
        peak = obs[..., -2:] @ f64(0.3, -0.4).unsqueeze(-1)
        return -(action - peak).square().sum(-1, keepdim=True)


def test_each_agent_takes_its_own_best_sample() -> None:
    algorithm = continuous()
    with torch.no_grad():
        for layer in algorithm.vae.decoder.layers:
            layer.weight.mul_(4)  # type: ignore[operator]
    used = torch.ones(2, 2, dtype=torch.float64)
    policy = BestSample(algorithm.vae, algorithm.perturb, Peak(init(), (6, 1)), used, samples=50)
    obs = torch.randn(1, 5, 2, OBS).double()
    random = ReplicaRandom([3], "act", dtype=torch.float64)
    action = policy.act(obs, random=random)
    latent = (
        ReplicaRandom([3], "act", dtype=torch.float64).normal(50, 5, 2, 4).clamp(-LATENT_BOUND, LATENT_BOUND)
    )
    x = with_agent_id(obs).unsqueeze(1)
    candidates = algorithm.perturb(x, algorithm.vae.decode(x, latent))
    for e in range(5):
        for n, peak in enumerate((0.3, -0.4)):
            distance = (candidates[0, :, e, n] - peak).square().sum(-1)
            torch.testing.assert_close(action[0, e, n], candidates[0, distance.argmin(), e, n])
    assert policy.stochastic
    assert policy.act(obs).shape == action.shape


def test_a_dataset_with_one_action_is_imitated() -> None:
    algorithm = continuous(n=1, size=16, phi=0.0, vae_hidden=16, lr=5e-3)
    for _ in range(150):
        algorithm.update(noisy(algorithm, torch.full((16, 1, 2), 0.5), mask=torch.zeros(16)))
    obs = torch.randn(1, 8, 1, OBS).double()
    action = algorithm.policy().act(obs, random=ReplicaRandom([0], "act", dtype=torch.float64))
    assert float((action - 0.5).abs().max()) < 0.15


def test_filter() -> None:
    log = f64(0.5, 0.3, 0.15, 0.05).log().view(1, 4)
    for threshold, expected in ((0.4, [1, 1, 0, 0]), (0.0, [1, 1, 1, 1]), (1.0, [1, 0, 0, 0])):
        assert allowed_actions(log, None, f64(threshold).view(1, 1)).int().tolist() == [expected]
    action_mask = torch.tensor([[False, True, True]])
    allowed = allowed_actions(f64(0.6, 0.3, 0.1).log().view(1, 3), action_mask, f64(0.4).view(1, 1))
    assert allowed.tolist() == [[False, True, False]]
    # An illegal action neither sets the bar for the legal ones nor is allowed, however low the bar is.
    allowed = allowed_actions(f64(0.6, 0.21, 0.19).log().view(1, 3), action_mask, f64(0.4).view(1, 1))
    assert allowed.tolist() == [[False, True, True]]
    assert allowed_actions(f64(0, 0, 0).view(1, 3), action_mask, f64(0).view(1, 1)).tolist() == [
        [False, True, True]
    ]


@pytest.mark.parametrize(("threshold", "best"), [(0.4, 1.0), (0.0, 100.0)])
def test_an_arm_that_the_data_lacks_is_kept_out(threshold: float, best: float) -> None:
    """Data holds arm 0 only; Q(1) starts at +100. The filter keeps arm 0, double Q-learning takes arm 1."""
    algorithm = discrete(threshold=threshold, gamma=1.0)
    for team in (algorithm.team, algorithm.target):
        table(team.agents.network, ((1.0, 100.0),))
    table(algorithm.clone.network, ((5.0, -5.0),))
    batch = transitions([[0], [0]], actions=2)
    assert float(algorithm.update(batch)["q/target_total"]) == pytest.approx(best)
    obs = torch.zeros(1, 1, 1, OBS, dtype=torch.float64)
    action_mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert int(algorithm.policy().act(obs, action_mask)) == int(threshold == 0.0)


def test_filter_at_evaluation_is_an_option() -> None:
    assert isinstance(discrete().policy(), BestAllowed)
    assert isinstance(discrete(history="rnn").policy(), RecurrentPolicy)
    algorithm = discrete(bcq_filter_at_eval=False)
    table(algorithm.team.agents.network, ((1.0, 100.0),))
    table(algorithm.clone.network, ((5.0, -5.0),))
    obs = torch.zeros(1, 1, 1, OBS, dtype=torch.float64)
    assert int(algorithm.policy().act(obs, torch.ones(1, 1, 1, 2, dtype=torch.bool))) == 1


def test_mixed_and_independent_targets() -> None:
    q = ((1.0, 2.0), (3.0, 0.0))
    for mixer, expected in (("vdn", 1 + 0.99 * 5), ("none", 0.5 * (4 + 0.99 * 2) + 0.5 * (6 + 0.99 * 3))):
        algorithm = discrete(n=2, mixer=mixer, threshold=0.0)
        for team in (algorithm.team, algorithm.target):
            table(team.agents.network, q)
        rewards = torch.tensor([[4.0, 6.0], [4.0, 6.0]])
        batch = transitions([[0, 0], [1, 1]], actions=2, reward=torch.ones(2), agent_reward=rewards)
        assert float(algorithm.update(batch)["q/target_total"]) == pytest.approx(expected)


def test_target_is_copied_every_period() -> None:
    algorithm = discrete(target_period=3, lr=1e-2)
    batch = transitions([[0], [1]], actions=2, reward=torch.ones(2))
    start = [p.clone() for p in algorithm.target.parameters()]
    for k in range(1, 5):
        algorithm.update(batch)
        same = all(torch.equal(a, b) for a, b in zip(start, algorithm.target.parameters(), strict=True))
        assert same == (k < 3)


def test_recurrent_policy_forgets_at_a_reset() -> None:
    algorithm = discrete(history="rnn", threshold=0.0)
    policy, action_mask = algorithm.policy(), torch.ones(1, 4, 1, 2, dtype=torch.bool)
    obs = torch.randn(3, 1, 4, 1, OBS, generator=torch.Generator().manual_seed(2)).double()
    policy.reset(4)
    for seen in obs:
        policy.act(seen, action_mask)
    policy.reset(4, torch.arange(4))
    again = [policy.act(seen, action_mask) for seen in obs]
    policy.reset(4)
    for seen, action in zip(obs, again, strict=True):
        assert torch.equal(policy.act(seen, action_mask), action)


def test_a_vae_of_every_agents_own_keeps_its_latent_and_its_actions_within_bounds() -> None:
    vae = VAE(init((0, 1)), 5, 2, hidden=8, n_latent=4, agents=3, n_out=7)
    assert {tuple(p.shape[:2]) for p in vae.parameters()} == {(2, 3)}
    condition, action = torch.randn(2, 6, 3, 5).double(), torch.randn(2, 6, 3, 2).double()
    for bias, bound in ((100.0, 15.0), (-100.0, -4.0)):
        vae.log_std.network.bias.data.fill_(bias)  # type: ignore[operator, union-attr]
        assert (vae.encode(condition, action)[1] == bound).all()
    vae.decoder.network.layers[-1].bias.data.fill_(3.0)  # type: ignore[index, operator, union-attr]
    decoded = vae.decode(condition, torch.zeros(2, 6, 3, 4).double())
    assert decoded.shape == (2, 6, 3, 7)
    assert 0.9 < decoded.min() < decoded.max() < 1.0


def test_actions_stay_in_the_box_and_padding_zero() -> None:
    xi = Perturbation(MLP(init(), (OBS + 2 + 2, 8, 2)), f64(0.5))
    edge = torch.ones(1, 200, 2, 2).double()
    assert float(xi(torch.randn(1, 200, 2, OBS + 2).double(), edge).detach().max()) == 1.0
    algorithm, used = continuous(), torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    policy = BestSample(algorithm.vae, algorithm.perturb, Peak(init(), (6, 1)), used, samples=5)
    obs = torch.randn(1, 5, 2, OBS).double()
    for random in (None, ReplicaRandom([3], "act", dtype=torch.float64)):
        action = policy.act(obs, random=random)
        assert not action[:, :, 0, 1].any()
        assert action[:, :, 1].all()
    x = with_agent_id(obs).unsqueeze(1)
    mode = algorithm.perturb(x, algorithm.vae.decode(x, torch.zeros(1, 1, 5, 2, 4).double()))[:, 0] * used
    torch.testing.assert_close(policy.act(obs), mode)


def test_two_networks_keep_their_own_memories() -> None:
    parts = [RecurrentNet(init(), 3, 4, 2), RecurrentNet(init((1,)), 3, 4, 2)]
    pair, memory = Pair(*parts), [None, None]
    hidden_state: Any = None
    for x in torch.randn(3, 1, 5, 1, 2, 3).double():
        found, hidden_state = pair(x, hidden_state)
        alone = [part(x, own) for part, own in zip(parts, memory, strict=True)]
        memory = [own for _, own in alone]
        torch.testing.assert_close(found, torch.cat([out for out, _ in alone], -1))


def test_latents_beyond_a_half_count_as_a_half() -> None:
    """In the target, in the policy's loss and in acting."""
    found, wild = [], 3.0 * torch.randn(1, 10, 5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    for bound in (torch.inf, 0.5, 0.4):
        algorithm = continuous()
        batch = noisy(algorithm, torch.zeros(2, 2, 2))
        for name in ("target", "policy"):
            batch.noise[name] = (3.0 * batch.noise[name]).clamp(-bound, bound)
        metrics = algorithm.update(batch)
        acted = algorithm.policy().act(
            torch.ones(1, 5, 2, OBS).double(), random=GivenRandom([wild.clamp(-bound, bound)])
        )
        found.append([metrics["q/target_total"], metrics["policy/loss"], acted])
    for free, half, less in zip(*found, strict=True):
        assert torch.equal(free, half)
        assert not torch.equal(half, less)
