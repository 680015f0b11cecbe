"""Do methods reach, or fail at, what theory says on the coordination games?

Values of the one-step games are exact: the payoff table under the product of the learned policies. Replicas are
seeds, datasets or settings of one lockstep run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.layers import with_agent_id
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

FAST = {"hidden": 32, "lr": 6e-3, "batch_size": 64}
MIXED = {**FAST, "mixer_hidden": 16, "tau": 0.05}
FASTER = {"lr": 2e-2}
A, B = 0, 1


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(name: str, task: str, qualities: list[str], updates: int, **settings: Any) -> Any:
    """One replica per quality, with seeds 0, 1, ..."""
    data = {quality: game_data.dataset(task, quality) for quality in dict.fromkeys(qualities)}
    algorithm = marlzoo.make(name, games.spec(task), seeds=range(len(qualities)), **settings)
    train(algorithm, [data[quality] for quality in qualities], updates=updates)
    return algorithm


def probabilities(algorithm: Any) -> NDArray[np.float64]:
    """Policies of a one-step game, ``[R, N, A]``."""
    seen = with_agent_id(torch.ones(algorithm.replicas, 1, algorithm.spec.n_agents, 1))
    logits = algorithm.policy().scores(seen)[:, 0].detach().double()
    found: NDArray[np.float64] = torch.softmax(logits, -1).numpy()
    return found


def values(algorithm: Any, task: str = "xor") -> NDArray[np.float64]:
    """Expected reward of the product policy, ``[R]``."""
    pi = probabilities(algorithm)
    return np.einsum("ri,rj,ij->r", pi[:, 0], pi[:, 1], np.array(games.payoffs(task), float))


def greedy(algorithm: Any) -> list[list[int]]:
    """Best actions, ``[R][N]``."""
    best: list[list[int]] = probabilities(algorithm).argmax(-1).tolist()
    return best


# Cloning: the product of the data's marginals ---------------------------------------------------------------


def test_cloning_on_xor() -> None:
    found = values(trained("bc", "xor", ["D1", "D2", "D3", "D4"], 135, **FAST))
    np.testing.assert_allclose(found, [1, 0, 2 / 9, 0], atol=0.05)


@pytest.mark.parametrize("n", [4, 16, 64])
def test_cloning_on_modes(n: int) -> None:
    algorithm = trained("bc", f"modes-{n}", ["modes"], 90, **FAST)
    agree = probabilities(algorithm)[0].prod(0).sum()
    assert agree == pytest.approx(2.0 ** (1 - n), rel=0.5)


def test_cloning_on_four_actions() -> None:
    """Agreement on the first or the last action, one half each; the product meets two penalties."""
    assert values(trained("bc", "xor-four", ["optimal"], 135, **FAST), "xor-four") == pytest.approx(
        -0.25, abs=0.05
    )


def test_cloning_finds_half_of_the_ends_of_t_maze() -> None:
    """Both walk to the colors that they chose alone; in half of the episodes they chose the same."""
    settings = {"history": "rnn", "hidden": 32, "lr": 1.2e-2, "batch_size": 32, "eval_mode": "sample"}
    algorithm = trained("bc", "t-maze", ["expert"], 135, **settings)
    assert evaluate(algorithm.policy(), games.make("t-maze", 400), seeds=[0]).returns.mean() == pytest.approx(
        0.5, abs=0.1
    )


def test_cloning_averages_peaks() -> None:
    algorithm = trained("bc", "two-peaks", ["peaks"], 90, **FAST)
    action = algorithm.policy().act(torch.ones(1, 1, 2, 1))
    assert action.abs().max() < 0.2  # between the peaks, where there is nothing


# Value decomposition: the best additive (monotone) fit --------------------------------------------------------


def test_vdn_on_xor() -> None:
    """D3: predicts Q(BB) = 2 and plays BB for -2. D4: the fit is (1, 0, 0, -1); plays AA for 0."""
    settings = {**FAST, "mixer_hidden": 16, "mixer": "vdn", "cql_weight": 0.0, "history": "mlp"}
    algorithm = trained("qmix_cql", "xor", ["D3", "D4"], 135, **settings)
    assert greedy(algorithm) == [[B, B], [A, A]]


@pytest.mark.parametrize(
    ("task", "quality", "best"),
    [("coordination-2x2", "uniform", 0), ("coordination-3x3", "uniform", 2), ("equilibria", "balanced", 2)],
)
def test_vdn_on_pure_coordination(task: str, quality: str, best: int) -> None:
    """The additive fit of uniform data has its maximum at the best cell, though its values are far off."""
    settings = {**FAST, **FASTER, "mixer": "vdn", "cql_weight": 0.0, "history": "mlp"}
    assert greedy(trained("qmix_cql", task, [quality], 135, **settings)) == [[best, best]]


def test_qmix_on_xor() -> None:
    settings = {**FAST, "mixer_hidden": 16, "mixer": "qmix", "cql_weight": 0.0, "history": "mlp"}
    assert greedy(trained("qmix_cql", "xor", ["D3", "D3"], 90, **settings)) == [[B, B], [B, B]]


# In-sample learning with local weights ------------------------------------------------------------------------


def test_omiga_fails_on_xor_as_predicted() -> None:
    """Weights exp(w q / alpha) of the additive fit on D3, a replica per alpha."""
    algorithm = trained(
        "omiga", "xor", ["D3"] * 5, 112, **{**MIXED, "lr": 1.2e-2}, alpha=[0.1, 0.5, 1.0, 5.0, 100.0]
    )
    predicted = [-1.9995, -0.9034, -0.1754, 0.1833, 0.2207]
    np.testing.assert_allclose(values(algorithm), predicted, atol=0.1)
    assert greedy(algorithm)[:2] == [[B, B], [B, B]]


def test_omiga_on_the_additive_game() -> None:
    """Uniform data, one unit of reward per agent: π(1) = sigmoid(1 / alpha)."""
    algorithm = trained(
        "omiga", "additive", ["uniform"] * 3, 90, **{**MIXED, **FASTER}, alpha=[0.5, 1.0, 2.0]
    )
    expected = 1 / (1 + np.exp(-1 / np.array([0.5, 1.0, 2.0])))
    np.testing.assert_allclose(
        probabilities(algorithm)[..., 1], np.repeat(expected[:, None], 2, 1), atol=0.05
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("eql", {"mixing": "linear", "alpha": 0.1, "reward_scaling": "none"}),
        ("sql", {"mixing": "linear", "alpha": 0.1, "reward_scaling": "none"}),
        ("omac", {"beta": 10.0}),
    ],
)
def test_local_weights_of_linear_mixing_on_xor(name: str, settings: dict[str, Any]) -> None:
    found = values(trained(name, "xor", ["D3", "D4"], 130, **MIXED, **settings))
    np.testing.assert_allclose(found, [-2, 0], atol=0.1)


def test_independent_iql_on_xor() -> None:
    """B is better on average against the data's team mate, for both."""
    algorithm = trained("iql", "xor", ["D3"], 135, **FAST, tau=0.05, beta=10.0)
    assert greedy(algorithm) == [[B, B]]
    assert values(algorithm)[0] < -1.5


def test_shared_weights_cannot_agree_on_xor() -> None:
    """An exact joint critic, but marginals of what it likes: half and half, value 0."""
    maiql = trained("maiql", "xor", ["D1", "D2", "D3", "D4"], 90, **{**MIXED, **FASTER}, beta=10.0)
    np.testing.assert_allclose(probabilities(maiql)[1:], 0.5, atol=0.15)
    np.testing.assert_allclose(values(maiql), [1, 0, 0, 0], atol=0.1)
    comadice = trained("comadice", "xor", ["D2"], 67, **MIXED, alpha=1.0)
    np.testing.assert_allclose(probabilities(comadice), 0.5, atol=0.05)
    assert abs(values(comadice)[0]) < 0.05


# Continuous games ---------------------------------------------------------------------------------------------


def test_best_response_to_the_data_goes_the_wrong_way() -> None:
    """MADDPG's policy gradient takes the team mate's action from the data: x from y < 0, y from x > 0 -> xy = -1."""
    settings = {**FAST, "lr": 1e-2, "critic_hidden": 32, "variant": "maddpg_bc", "alpha": 10.0}
    algorithm = trained("td3_bc", "sign-agreement", ["opposite"], 200, **settings)
    x, y = algorithm.policy().act(torch.ones(1, 1, 2, 1)).flatten().tolist()
    assert x < -0.8
    assert y > 0.8


def test_policies_moved_together_agree() -> None:
    """B3C replaces all agents' actions in a critic that is not additive: finds a peak that cloning misses."""
    settings = {**MIXED, "lr": 1e-2, "mixer_embed": 16, "w": 10.0}
    algorithm = trained("b3c", "two-peaks", ["peaks"], 200, **settings)
    action = algorithm.policy().act(torch.ones(1, 1, 2, 1))[0].detach().numpy()
    assert games.SURFACES["two-peaks"](action[..., 0])[0] > 0.5


def test_additive_values_see_nothing_in_a_product() -> None:
    """The best additive fit of xy is constant: OMIGA stays where the data are, whatever alpha."""
    algorithm = trained("omiga", "sign-agreement", ["uniform"] * 2, 90, **MIXED, alpha=[0.1, 10.0])
    action = algorithm.policy().act(torch.ones(2, 1, 2, 1))
    assert action.abs().max() < 0.35


# Sequential correction ----------------------------------------------------------------------------------------

ALBERDICE = {
    **{"hidden": 32, "batch_size": 64, "lr": 1.7e-3, "pretrain": 90},
    **{"alpha": 5.0, "alpha_end": 0.05, "anneal": 420, "conservatism": 0.02},
}


@pytest.mark.slow
def test_alberdice_solves_xor() -> None:
    data = ["D1", "D2", "D3", "D3", "D4", "D4"]
    algorithm = trained("alberdice", "xor", data, 600, **ALBERDICE)
    found, best = values(algorithm), greedy(algorithm)
    for quality, floor in (("D1", 0.95), ("D2", 0.8), ("D3", 0.95), ("D4", 0.95)):
        rows = [k for k, name in enumerate(data) if name == quality]
        good = [best[k] in ([A, B], [B, A]) and found[k] >= floor for k in rows]
        assert np.mean(good) >= 0.9, (quality, found[rows].round(2), [best[k] for k in rows])


def test_cloning_wanders_on_bridge() -> None:
    algorithm = trained("bc", "bridge", ["optimal"] * 2, 675, **FAST, eval_mode="sample")
    found = evaluate(algorithm.policy(), games.make("bridge", 200), seeds=[0, 1])
    assert found.returns.mean() < -1.4
