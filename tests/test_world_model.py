"""World models: uncertainty by hand, a linear system, what is held out, rollouts, files and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.cli import main
from marlzoo.data.dataset import Dataset
from marlzoo.data.load import load_dataset
from marlzoo.data.sampler import Sampler, held_out_episodes
from marlzoo.errors import CheckpointError, ConfigError, DataError
from marlzoo.models.rollouts import Learned, Outcome, imagine
from marlzoo.models.settings import WorldModelConfig
from marlzoo.models.world_model import (
    Prediction,
    Uncertainty,
    WorldModel,
    _over,
    aleatoric,
    disagreement,
    reward_variance,
)
from marlzoo.replicas import Init
from marlzoo.system.array_files import save_arrays
from marlzoo.training.world_models import fit_world_model, load_world_model, save_world_model, step_errors
from tests.toys import toy_dataset, toy_spec

SIZES: dict[str, Any] = {"members": 3, "elites": 2, "model_hidden": 16, "model_layers": 1, "model_batch": 32}
SMALL = WorldModelConfig(**SIZES, model_lr=3e-3, model_updates=300)


def linear_system(noise: float, episodes: int = 60) -> Dataset:
    """One agent of two entries: ``x' = 0.9 x + (0.5 a, 0) + noise``; it pays -x_0 and ends where x_0 exceeds 0.5."""
    rng, told = np.random.default_rng(0), []
    for _ in range(episodes):
        x, terminal = rng.normal(size=2), False
        obs, actions, rewards = list[Any](), list[Any](), list[Any]()
        while not terminal and len(actions) < 10:
            obs.append(x)
            actions.append(rng.uniform(-1, 1, 1))
            rewards.append(-x[0])
            x = 0.9 * x + np.array([0.5 * actions[-1][0], 0.0]) + noise * rng.normal(size=2)
            terminal = bool(x[0] > 0.5)
        shown = np.array([*obs, x])[:, None]
        told.append(
            {"obs": shown, "action": np.array(actions)[:, None], "reward": rewards, "terminal": terminal}
        )
    return Dataset.from_episodes(told, horizon=10)


def toy_model(**settings: Any) -> WorldModel:
    model = WorldModel(
        Init([3, 4], dtype=torch.float64),
        toy_spec(),
        replace(SMALL, **settings),
        settings.pop("state", False),
    )
    model.observe([toy_dataset(), toy_dataset(seed=1)])
    return model


def batch_of(model: WorldModel, **fields: Tensor) -> Batch:
    drawn = Sampler(
        [toy_dataset(), toy_dataset(seed=1)], [3, 4], batch_size=model.rows, fields=model.fields, dtype=torch.float64
    ).next()  # fmt: skip
    return Batch.of(**(drawn.tensors() | fields))


def test_actions_are_standardized_where_that_is_asked_for() -> None:
    """By the moments of each replica's data; an entry that pads the smaller agent stays 0."""
    model = toy_model(standardize_actions=True)
    for replica, data in enumerate((toy_dataset(), toy_dataset(seed=1))):
        action = torch.from_numpy(data.action[data.sources]).double()
        seen = model._action(action.expand(2, *action.shape))[replica].numpy()
        varies = action.flatten(1).std(0).numpy() > 0
        assert varies.any()
        assert not varies.all()
        assert seen.mean(0) == pytest.approx(np.zeros(len(varies)), abs=1e-4)
        assert seen.std(0) == pytest.approx(varies.astype(float), abs=1e-4)
    same = toy_model()
    torch.testing.assert_close(
        same._action(action.expand(2, *action.shape))[0], action.flatten(1), atol=1e-4, rtol=0
    )
    with pytest.raises(ConfigError, match="standardize_actions is for continuous actions"):
        WorldModel(Init([0]), toy_spec("discrete"), replace(SMALL, standardize_actions=True))


def test_uncertainty_by_hand() -> None:
    """The specification's values: members expect (1, 0), (2, 0) and (3, 3) of (next frame, team reward)."""
    mean = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 4, 1)
    reward = torch.tensor([0.0, 0.0, 3.0]).view(1, 3, 1).expand(2, 3, 4)
    assert disagreement(mean, reward) == pytest.approx(np.full((2, 4), 3.8079), abs=1e-4)
    assert reward_variance(reward).flatten().tolist() == pytest.approx([3.0] * 8)
    std = torch.tensor([[0.5, 0.2], [0.1, 0.4], [0.0, 0.0]]).view(1, 3, 1, 2)
    assert aleatoric(std).item() == pytest.approx(0.25318, abs=1e-5)
    assert disagreement(mean[:, :1].expand_as(mean), reward[:, :1].expand_as(reward)).abs().max() < 1e-12


def test_a_linear_system_is_learned_with_its_noise() -> None:
    data = linear_system(noise=0.1)
    model = fit_world_model(data, SMALL)
    errors = step_errors(model, data, 3)
    assert 0.09 < errors.frame[0] * data.obs.std() < 0.14  # of 0.1 that is not to be known
    assert (errors.frame < 0.6 * errors.unchanged).all()
    assert (np.diff(errors.starts) < 0).all()
    found = model.predict(torch.tensor([[[-0.5, 0.0]]]), torch.zeros(1, 1, 1, 1))
    assert found.std.mean().item() == pytest.approx(0.1, abs=0.04)
    beyond = model.predict(torch.tensor([[[0.5, 0.0]]]), torch.ones(1, 1, 1, 1))  # to 0.95, beyond the end
    assert found.alive.mean() > 0.9
    assert beyond.alive.mean() < 0.5


def test_held_out_episodes_measure_and_do_not_teach() -> None:
    """A tenth of the episodes, whole; where a batch holds nothing else, no gradient is left."""
    data = toy_dataset(episodes=40)
    held = held_out_episodes(data)
    assert held.sum() == 4
    sampler = Sampler(data, [0], batch_size=4000, fields=("obs", "held_out"))
    batch = sampler.next()
    assert batch.held_out.mean().item() == pytest.approx(np.average(held, weights=data.lengths), abs=0.02)
    told = {float(x) for x, flag in zip(batch.obs[0, :, 0, 0], batch.held_out[0], strict=True) if flag}
    starts = np.repeat(held, data.lengths + 1)
    assert told <= {float(x) for x in data.obs[starts, 0, 0]}

    model = toy_model()
    ones = torch.ones(2, model.rows, dtype=torch.float64)
    loss, _ = model.loss(batch_of(model, held_out=ones))
    assert loss.tolist() == [0.0, 0.0]
    assert (model.errors[..., 1] == model.config.model_batch).all()
    assert (model.errors[..., 0] > 0).all()
    loss, _ = model.loss(batch_of(model, held_out=0.0 * ones))
    assert (loss > 0).all()
    assert model.errors[0, 0, 1].item() == pytest.approx(0.98 * model.config.model_batch)


def test_the_loss_is_a_mean_over_the_steps_that_teach_and_a_sum_over_members() -> None:
    """So a held-out step in a batch makes the others count more, and no member changes another's step size."""
    model = toy_model()
    batch = batch_of(model)
    size = model.config.model_batch
    held = torch.zeros(2, model.rows, dtype=torch.float64)
    total = torch.zeros(2, dtype=torch.float64)
    for member in range(model.config.members):
        some = torch.ones_like(held)  # one member's first four steps alone teach
        some[:, member * size : member * size + 4] = 0.0
        held[:, member * size + 4 : (member + 1) * size] = 1.0
        total += model.loss(Batch.of(**(batch.tensors() | {"held_out": some})))[0].detach()
    loss, metrics = model.loss(Batch.of(**(batch.tensors() | {"held_out": held})))
    found = loss.detach()
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(found, model.config.members * metrics["world/loss"])
    # Steps repeated until the batch is full: the mean, and not the sum, stays what it was.
    rows = torch.arange(model.rows) // size * size + torch.arange(model.rows) % 4
    again = {name: value[:, rows] for name, value in batch.tensors().items()} | {"held_out": 0.0 * held}
    torch.testing.assert_close(model.loss(Batch.of(**again))[0].detach(), found)


def test_scales_are_the_datas_population_moments() -> None:
    """Of all frames, the final ones too, and of the rewards of steps: a final row has none."""
    model = toy_model()
    for replica, data in enumerate((toy_dataset(), toy_dataset(seed=1))):
        frames = data.obs.reshape(data.rows, -1).astype(np.float64)
        paid = np.concatenate([episode.reward for episode in data]).astype(np.float64)
        for name, rows in (("", frames), ("reward_", np.repeat(paid[:, None], 3, 1))):
            moments = {"center": rows.mean(0), "spread": rows.std(0), "low": rows.min(0), "high": rows.max(0)}
            for moment, values in moments.items():
                np.testing.assert_allclose(getattr(model, name + moment)[replica], values, atol=1e-12)


def test_a_step_goes_on_where_more_agents_than_not_do() -> None:
    alive = torch.tensor([[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]]).view(1, 1, 2, 3)
    told = Prediction(torch.zeros(1, 1, 2, 1), torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 3), alive)
    assert told.drawn(torch.zeros(1, 2))[2].tolist() == [[1.0, 0.0]]


def test_the_best_members_are_kept() -> None:
    model = toy_model()
    model.errors.copy_(
        torch.tensor([[[4.0, 1.0], [1.0, 1.0], [4.0, 2.0]], [[1.0, 1.0], [9.0, 1.0], [0.0, 1.0]]])
    )
    assert model.elites().tolist() == [[1, 2], [2, 0]]
    frame, action = torch.zeros(2, 5, model.size).double(), torch.zeros(2, 5, 3, 2).double()
    everyone = model.predict(frame, action)
    best = everyone.of(model.elites())
    assert torch.equal(best.mean[0], everyone.mean[0, [1, 2]])
    drawn, _, _ = best.drawn(torch.tensor([0.0, 0.49, 0.5, 0.99, 0.2]).double().expand(2, 5))
    assert torch.equal(drawn[1, 2], everyone.mean[1, 0, 2])
    assert torch.equal(drawn[1, 1], everyone.mean[1, 2, 1])


def test_rollouts_step_in_one_of_the_best_members_within_the_box_of_the_data() -> None:
    """Their disagreement, too, is that of the best members alone."""
    model = toy_model()
    for replica, worst in enumerate((0, 2)):
        model.errors[replica] = torch.ones(3, 2)
        model.errors[replica, worst, 0] = 9.0
    source = torch.Generator().manual_seed(0)
    frame = 9.0 * torch.randn(2, 6, model.size, generator=source, dtype=torch.float64)
    action = torch.rand(2, 6, 3, 2, generator=source, dtype=torch.float64)
    uniform = torch.tensor([0.1, 0.9]).double().repeat(2, 3)
    found, everyone = Learned(model).step(frame, action, uniform), model.predict(frame, action)
    for replica, best in enumerate(([1, 2], [0, 1])):
        for step in range(6):
            member = best[int(uniform[replica, step] * 2)]
            mean = everyone.mean[replica, member, step]
            expected = torch.clamp(mean, model.low[replica], model.high[replica])
            torch.testing.assert_close(found.frame[replica, step], expected)
            paid = everyone.reward[replica, member, step]
            expected = torch.clamp(paid, model.reward_low[replica], model.reward_high[replica])
            torch.testing.assert_close(found.reward[replica, step], expected)
            goes_on = everyone.alive[replica, member, step].mean() > 0.5
            assert found.mask[replica, step] == goes_on
        spread = everyone.team_reward[replica, best].var(0)
        torch.testing.assert_close(found.uncertainty.reward[replica], spread)
    assert not torch.equal(found.frame, everyone.drawn(uniform)[0])


def test_what_does_not_vary_has_no_share() -> None:
    found = _over(torch.tensor([3.0, 3.0]), torch.tensor([0.0, 2.0]))
    assert found.tolist() == [0.0, 1.5]


def test_predictions_stay_in_the_box_and_constants_constant() -> None:
    model = toy_model()
    far = 100.0 * torch.randn(2, 6, model.size, dtype=torch.float64)
    inside, paid = model.in_the_box(far, 100.0 * torch.randn(2, 6, 3, dtype=torch.float64))
    assert (inside <= model.high.unsqueeze(1)).all()
    assert (inside >= model.low.unsqueeze(1)).all()
    assert (paid <= model.reward_high.unsqueeze(1)).all()
    assert (paid >= model.reward_low.unsqueeze(1)).all()
    assert (paid == model.reward_low.unsqueeze(1)).any()

    data = linear_system(0.0)
    data.obs[..., 1] = 7.0
    for settings in ({}, {"residual": False}, {"standardize": False, "residual": False}):
        still = WorldModel(Init([0]), data.spec, WorldModelConfig(**SIZES, **settings))
        still.observe([data])
        found = still.predict(torch.tensor([[[0.3, 7.0]]]), torch.ones(1, 1, 1, 1))
        assert (found.mean[..., 1] == 7.0).all()
        assert (found.std[..., 1] == 0.0).all()


class Counting:
    """Adds one to the frame in every step; disagreement is the frame's first entry; the end is at ``last``."""

    def __init__(self, last: float = 99.0) -> None:
        self.last = last

    def step(self, frame: Tensor, action: Tensor, uniform: Tensor) -> Outcome:
        after, zero = frame + 1.0, torch.zeros_like(uniform)
        mask = (after[..., 0] != self.last).to(frame.dtype)
        return Outcome(after, action, mask, Uncertainty(frame[..., 0], zero, zero))


def walk(dynamics: Counting, threshold: float) -> Any:
    """Two rollouts of three steps from 10 s, with spares 10 s + 1 and 10 s + 2 tenths."""
    starts = torch.tensor([[[[0.0], [0.1], [0.2]], [[10.0], [10.1], [10.2]]]])
    act = lambda frame, t, _: torch.full((1, 2, 2), float(t))  # noqa: E731 - the number of the step
    return imagine(dynamics, act, starts, torch.zeros(1, 2, 3), torch.full((1, 1), threshold))


def test_rollouts_go_on_until_the_horizon() -> None:
    found = walk(Counting(), 99.0)
    assert found.frame[0, :, :, 0].tolist() == [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]
    assert found.next_frame[0, 1, :, 0].tolist() == [11.0, 12.0, 13.0]
    assert found.ends[0].tolist() == [[0.0, 0.0, 1.0]] * 2
    assert found.mask.min() == 1.0  # time limits: the next value counts
    assert found.reward[0, 0, :, 0].tolist() == [0.0, 1.0, 2.0]


def test_rollouts_stop_where_the_task_ends_or_the_members_disagree() -> None:
    """The place of one that stopped is taken by a spare start."""
    found = walk(Counting(last=1.0), 11.5)
    assert found.frame[0, 0, :, 0].tolist() == pytest.approx([0.0, 0.1, 1.1])
    assert found.mask[0, 0].tolist() == [0.0, 1.0, 1.0]
    assert found.ends[0].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    every = walk(Counting(), -1.0)
    assert every.ends.min() == 1.0
    assert every.mask.min() == 1.0
    assert every.frame[0, 1, :, 0].tolist() == pytest.approx([10.0, 10.1, 10.2])


def test_a_file_gives_the_same_predictions(tmp_path: Path) -> None:
    data = toy_dataset()
    model = fit_world_model(data, replace(SMALL, model_updates=2), seed=5, state=True)
    save_world_model(tmp_path / "model.npz", model, data, 5)
    again = load_world_model(tmp_path / "model.npz")
    frame = torch.randn(1, 4, model.size)
    action = torch.randn(1, 4, 3, 2)
    assert torch.equal(model.predict(frame, action).mean, again.predict(frame, action).mean)
    assert torch.equal(model.elites(), again.elites())
    assert (model.state, again.state) == (True, True)
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(CheckpointError, match="not a"):
        load_world_model(tmp_path / "other.npz")


def test_what_no_model_can_be_made_of() -> None:
    data = linear_system(0.0)
    whole = Dataset.from_episodes(
        [{"obs": np.arange(6.0).reshape(3, 1, 2), "action": np.zeros((2, 1, 1)), "reward": [0.0, 1.0]}] * 2
    )
    with pytest.raises(DataError, match="discrete"):
        fit_world_model(whole, SMALL)
    with pytest.raises(DataError, match="one episode only"):
        fit_world_model(linear_system(0.0, episodes=1), SMALL)
    with pytest.raises(ConfigError, match="elites of 3 members"):
        fit_world_model(data, replace(SMALL, elites=4))


class Given:
    """Members that add once, twice and five times the action to the frame; the first two are the best."""

    spread = torch.tensor([[2.0, 0.0]])  # the second entry never varies

    config = SMALL

    def frame(self, obs: Tensor, state: Tensor) -> Tensor:
        return obs.flatten(2)

    def elites(self) -> Tensor:
        return torch.tensor([[0, 1]])

    def predict(self, frame: Tensor, action: Tensor) -> Any:
        move = action.flatten(2)
        factors = torch.tensor([1.0, 2.0, 5.0]).view(1, 3, 1, 1)
        members = frame.unsqueeze(1) + factors * move.unsqueeze(1)
        return Answers(members, factors[..., 0] * move.unsqueeze(1)[..., 0])


class Answers:
    """Means of members ``[1, M, B, .]`` and their rewards ``[1, M, B]``."""

    def __init__(self, mean: Tensor, team_reward: Tensor) -> None:
        self.mean, self.team_reward = mean, team_reward

    def of(self, members: Tensor) -> Answers:
        return Answers(self.mean[:, members[0]], self.team_reward[:, members[0]])


@pytest.mark.parametrize("per_agent", [False, True])
def test_errors_of_several_steps_by_hand(per_agent: bool) -> None:
    """``x' = x + a`` where the model says 1.5 a, of episodes of 1 to 4 steps of which a tenth is held out."""
    rng, told = np.random.default_rng(0), list[Any]()
    for episode in range(40):
        action = rng.uniform(-1, 1, 1 + episode % 4)
        x = np.concatenate(([0.0], np.cumsum(action)))
        obs = np.stack((x, 0.0 * x), 1)[:, None]
        reward = action * 2.0
        told.append({"obs": obs, "action": action[:, None, None], "reward": reward, "terminal": True})
    data = Dataset.from_episodes(told)
    if per_agent:  # agents earn half too much and half too little
        spec = replace(data.spec, n_agents=2, reward_per_agent=True, obs_sizes=(), action_sizes=())
        twice = {name: np.repeat(getattr(data, name), 2, axis=1) for name in ("obs", "action")}
        earned = np.stack((1.5 * data.reward, 0.5 * data.reward), 1)
        ends = {"terminal": data.terminal, "truncated": data.truncated, "starts": data.starts}
        data = Dataset.create(replace(spec, state_size=4), reward=earned, **twice, **ends)
    held = np.flatnonzero(held_out_episodes(data))
    model: Any = Given()
    model.frame = lambda obs, state: obs[:, :, 0]
    plain = model.predict
    model.predict = lambda frame, action: plain(frame, action[:, :, :1])
    found = step_errors(model, data, steps=9)
    longest = int(data.lengths[held].max())
    assert len(found.starts) == longest
    for k in range(longest):
        off, paid = [], []
        for episode in held:
            action = data.action[data.starts[episode] : data.ends[episode], 0, 0]
            for t in range(len(action) - k):
                off.append(action[t : t + k + 1].sum())
                paid.append(0.5 * action[t + k])
        assert found.starts[k] == len(off)
        assert found.frame[k] == pytest.approx(0.5 * np.sqrt(np.square(off).mean()) / 2.0, rel=1e-4)
        assert found.unchanged[k] == pytest.approx(np.sqrt(np.square(off).mean()) / 2.0, rel=1e-4)
        assert found.reward[k] == pytest.approx(np.sqrt(np.square(paid).mean()), rel=1e-4)


def test_what_a_training_of_a_model_tells(tmp_path: Path) -> None:
    told: list[tuple[int, bool]] = []
    config = replace(SMALL, model_updates=101)
    fit_world_model(
        toy_dataset(), config, on_progress=lambda done, metrics: told.append((done, bool(metrics)))
    )
    assert [done for done, _ in told] == list(range(1, 102))
    assert [done for done, metrics in told if metrics] == [100]
    few = replace(SMALL, model_updates=1)
    one, other = (fit_world_model(toy_dataset(), few, seed=seed).state_dict() for seed in (0, 1))
    moved = max((value - other[name]).abs().max() for name, value in one.items() if name.endswith("weight"))
    assert moved > 0.05, "each seed has initial values of its own, which one update hardly moves"
    save_arrays(tmp_path / "other.npz", {"x": np.zeros(2)}, {"kind": "something else"})
    with pytest.raises(CheckpointError, match="not a world model; 'marlzoo data model DATASET' writes one"):
        load_world_model(tmp_path / "other.npz")


def test_errors_are_in_units_of_the_data_whatever_the_model_reads() -> None:
    data = toy_dataset()
    data.obs[:] *= np.float32(10.0)
    data.obs[..., 0] = 3.0  # has no share
    plain, scaled = (
        step_errors(
            fit_world_model(data, replace(SMALL, model_updates=1, standardize=standardize), state=True), data
        )
        for standardize in (False, True)
    )
    np.testing.assert_allclose(plain.unchanged, scaled.unchanged, rtol=1e-5)
    assert 1.0 < plain.unchanged[0] < 2.0


def test_a_task_of_one_state_has_no_error_of_frames() -> None:
    data = load_dataset("games/xor/marlzoo/D2")
    model = fit_world_model(data, replace(SMALL, model_updates=3))
    found = step_errors(model, data)
    assert found.frame.tolist() == found.unchanged.tolist() == [0.0]
    assert np.isfinite(found.reward).all()


def test_the_command_shows_and_takes_only_what_a_world_model_uses(capsys: pytest.CaptureFixture[str]) -> None:
    """Its step size is --model-lr; --lr would be taken in silence."""
    with pytest.raises(SystemExit):
        main(["data", "model", "--help"])
    shown = capsys.readouterr().out
    assert "--model-lr" in shown
    assert "--grad-clip" in shown
    for unused, value in (
        ("--lr", "0.1"),
        ("--gamma", "0.9"),
        ("--batch-size", "7"),
        ("--reward-mode", "rtg"),
    ):
        assert f"{unused} " not in shown
        assert main(["data", "model", "games/xor/marlzoo/D2", unused, value]) != 0
        assert f"{unused} is a setting of methods" in capsys.readouterr().err
