"""Fine-tuning online: memory, exploration, shares of data, the curve's start, exact resume, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import marlzoo
from marlzoo.batch import Batch
from marlzoo.cli import main
from marlzoo.errors import CheckpointError, ConfigError, DataError
from marlzoo.objectives import logged_value
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.checkpoint import save
from marlzoo.training.collector import Collector
from marlzoo.training.exploration import TeamExplorer, deviating
from marlzoo.training.finetune import Finetuned, finetune, require_online_form
from marlzoo.training.finetune_settings import FinetuneSettings
from marlzoo.training.loggers import MetricsFile
from marlzoo.training.mixed_replay import MixedReplay
from marlzoo.training.trainer import make_sampler, train
from marlzoo.training.value_memory import RemembersValues, ValueMemory
from tests.toys import ToyEnv, toy_dataset, toy_spec

TINY = FinetuneSettings(num_envs=2, rollout=4, learn_steps=2, warmup=8, replay=200, restart=2)
QMIX: dict[str, Any] = {"hidden": 8, "batch_size": 16, "mixer_hidden": 8, "mixer_embed": 4, "cql_weight": 0.0}


def offline(folder: Path, method: str, kind: Any, **settings: Any) -> tuple[Path, list[Any]]:
    """A small run with two replicas: its checkpoint and its evaluations."""
    learner = marlzoo.make(method, toy_spec(kind), seeds=[3, 5], **{"hidden": 8, "batch_size": 16} | settings)
    data = toy_dataset(kind)
    file = folder / "offline.npz"
    options: dict[str, Any] = {"env": lambda num_envs: ToyEnv(num_envs, kind), "checkpoint": file}
    found = train(
        learner, data, updates=3, episodes=3, compile="off", check_data=False, show_progress=False, **options
    )
    return file, found


def tuned(
    file: Path, kind: Any, env_steps: int = 32, settings: FinetuneSettings = TINY, **more: Any
) -> Finetuned:
    options: dict[str, Any] = {"data": toy_dataset(kind), "env": lambda num_envs: ToyEnv(num_envs, kind)}
    return finetune(file, env_steps, settings=settings, **options | more)


# ---- memory ----------------------------------------------------------------------------------------------


class Remembered(nn.Module):
    """A team whose value is 3 in the batch's step, and 9 after it; also the learner that has it."""

    mixer = memory = None

    def forward(self, batch: Batch) -> Tensor:
        return torch.tensor([3.0, 9.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 1, 2)

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        return values

    def data_values(self, batch: Batch) -> Tensor:
        return logged_value(self, batch)


@pytest.mark.parametrize(
    ("y", "weight", "expected"), [(1, 0.25, 1.5), (1, 0, 1), (1, 1, 3), (4, 0.7, 4), (4, 1, 4)]
)
def test_lifted_targets(y: float, weight: float, expected: float) -> None:
    memory = ValueMemory(Remembered())
    memory.weight = weight
    batch = Batch.of(action=torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    assert memory.lift(torch.full((1, 1, 1, 1), float(y)), batch).item() == expected


def memorized(
    weight: float | None, reward: float = 0.0, steps: int = 1
) -> tuple[Any, dict[str, Tensor], str]:
    """QMIX after some updates with a memory of itself; also its last metrics and the memory's numbers."""
    made = (
        marlzoo.make("qmix_cql", toy_spec("discrete"), seeds=[0, 1], history="mlp", **QMIX) for _ in range(2)
    )
    (learner, before), metrics = made, dict[str, Tensor]()
    memory = ValueMemory(before)  # type: ignore[arg-type] # of a method that any name may have
    if weight is not None:
        memory.weight, learner.memory = weight, memory
    sampler = make_sampler(learner, [toy_dataset("discrete")])
    for _ in range(steps):
        batch = sampler.next()
        batch.reward += reward
        metrics = learner.update(batch)
    assert all(parameter.grad is None for parameter in before.parameters())
    return learner, metrics, str([p.tolist() for p in before.parameters()])


def test_without_weight_the_loss_is_that_of_qmix() -> None:
    plain, lifted = memorized(None, steps=3)[0], memorized(0.0, steps=3)[0]
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), lifted.parameters(), strict=True))


def test_what_is_remembered_and_exceeds_all_targets_has_no_gradient() -> None:
    assert memorized(1.0, reward=-100.0)[1]["grad_norm/q"].abs().max() == 0.0
    assert memorized(None, reward=-100.0)[1]["grad_norm/q"].min() > 0.0


def test_the_memory_keeps_values_up_and_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With min in place of max values fall faster than without memory, so that the dip would be deeper."""
    plain, kept = memorized(None, reward=-1.0, steps=20), memorized(0.8, reward=-1.0, steps=20)
    assert kept[2] == memorized(0.8)[2]
    monkeypatch.setattr(torch, "maximum", torch.minimum)
    wrong = memorized(0.8, reward=-1.0, steps=20)
    low, middle, high = (found[1]["q/total"] for found in (wrong, plain, kept))
    assert (low < middle).all()
    assert (middle < high).all()


SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
REMEMBERING: list[tuple[str, Any, bool, dict[str, Any]]] = [
    ("omiga", "continuous", False, {}),
    ("icq", "discrete", False, {"critic_hidden": 8}),
    ("cql_ma", "discrete", False, {}),
    ("cql_ma", "continuous", True, {"n_critics": 2}),
    ("omac", "continuous", False, {}),
    ("iql_cql", "discrete", False, {"history": "mlp"}),
    ("td3_bc", "discrete", True, {"critic_hidden": 8}),
    ("iql", "continuous", True, {}),
    ("omar", "discrete", False, {}),
    ("omar", "continuous", True, {}),
    ("omar", "continuous", True, {"mixed": True, "mixer_hidden": 8}),
    ("bcq_ma", "discrete", False, {"history": "mlp"}),
    ("bcq_ma", "continuous", True, {"vae_hidden": 8}),
    ("lomaq", "discrete", False, {}),
    ("lomaq", "continuous", False, {}),
    ("om2p", "continuous", True, {"layers": 1}),
    ("maddpg_cql", "continuous", True, {"history": "mlp", "critic_hidden": 8}),
    ("maiql", "continuous", True, {"mixer_hidden": 8}),
    ("mabcq", "discrete", False, {"density": "counts"}),
    ("mabcq", "continuous", True, {"density": "counts"}),
    ("inspo", "discrete", False, {}),
    ("inspo", "continuous", False, {}),
]


@pytest.mark.parametrize(("method", "kind", "twins", "settings"), REMEMBERING)
def test_targets_below_all_that_is_remembered_become_the_values_of_logged_actions(
    method: str, kind: Any, twins: bool, settings: dict[str, Any]
) -> None:
    """Of twin critics the lower one."""
    learner, before = (
        marlzoo.make(method, toy_spec(kind), seeds=[0, 1], **SMALL, **settings) for _ in range(2)
    )
    assert isinstance(before, RemembersValues)
    shown: list[Tensor] = []

    class Watched(ValueMemory):
        def lift(self, target: Tensor, batch: Batch) -> Tensor:
            shown.append(super().lift(target, batch))
            return shown[-1]

    learner.memory = Watched(before)  # type: ignore[assignment] # of a method that any name may have
    batch = make_sampler(learner, [toy_dataset(kind)]).next()
    low = {name: value - 100.0 for name, value in batch.tensors().items() if name.endswith("reward")}
    metrics = learner.update(Batch.of(batch.noise, **batch.tensors() | low))
    logged = metrics["value/data_mean"]
    (targets,) = shown
    found = targets.flatten(1).mean(1)
    for name in {"target_q", "q/target_total"} & metrics.keys():  # what is learned
        torch.testing.assert_close(metrics[name], found)
    assert (metrics.get("q/loss", torch.zeros(2)) < 100.0).all()  # the rewards' are about 100 squared
    if twins:
        assert (found <= logged + 1e-6).all()
        assert (found < logged - 1e-4).any()  # one of two may be the lower one everywhere
        assert (found > logged - 10.0).all()
    else:
        torch.testing.assert_close(found, logged)


# ---- exploration -----------------------------------------------------------------------------------------


def test_how_many_agents_deviate() -> None:
    draws, free = 40_000, torch.ones(40_000, 5, dtype=torch.bool)
    drawn = torch.rand(draws, 6, generator=torch.Generator().manual_seed(0))
    counts = deviating("sequential", 1.0, drawn, free).sum(-1)
    for count, share in ((0, 0.3277), (1, 0.4096)):
        error = 4 * (share * (1 - share) / draws) ** 0.5
        assert (counts == count).float().mean().item() == pytest.approx(share, abs=error)
    for epsilon in (1.0, 0.3):
        mean = deviating("sequential", epsilon, drawn, free).sum(-1).float().mean().item()
        assert mean == pytest.approx(epsilon, abs=4 * (epsilon / draws) ** 0.5)
    single = deviating("single", 0.3, drawn, free)
    assert single.sum(-1).max() == 1
    assert single.sum(-1).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert single.float().mean(0).max() < 0.07  # every agent in its turn
    assert deviating("joint", 0.3, drawn, free).float().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("kind", ["joint", "sequential", "single"])
def test_deviations_are_legal_and_dead_agents_have_none(kind: Any) -> None:
    learner = marlzoo.make("qmix_cql", toy_spec("discrete"), seeds=[0, 1], last_action=True, **QMIX)
    explorer = TeamExplorer(learner, kind)
    explorer.epsilon = 1.0
    random, fresh = ReplicaRandom([0, 1], "test"), torch.ones(2, 50, dtype=torch.bool)
    mask = torch.rand(2, 50, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, :, 1], mask[..., 3], mask[:, :, 1, 3] = False, True, True  # agent 1 is dead: one action is left
    action = explorer.explore(torch.zeros(2, 50, 3, 5), mask, random, fresh)
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    own, twin = learner.policy(), ReplicaRandom([0, 1], "test")
    own.reset(50)
    leaves = deviating(kind, 1.0, twin.uniform(50, 4), mask.sum(-1) > 1)
    any_legal = twin.uniform(50, 3, 4).masked_fill(~mask, -1.0).argmax(-1)
    assert torch.equal(action, torch.where(leaves, any_legal, own.act(torch.zeros(2, 50, 3, 5), mask)))
    remembered = explorer._policies[0].state()["last_action"]
    assert torch.equal(remembered.argmax(-1), action), "a recurrent policy reads what was done"
    alive = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0))
    free = torch.tensor([True, False, True]).expand(1000, 3)
    leaves = deviating(kind, 1.0, alive, free)
    assert not leaves[:, 1].any()
    assert kind != "single" or (leaves.sum(-1) == 1).all()


def test_continuous_deviations_are_noise_within_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = marlzoo.make("td3_bc", toy_spec(), seeds=[0, 1], hidden=8)
    explorer, twin = TeamExplorer(learner, "joint"), ReplicaRandom([0, 1], "test")
    explorer.epsilon, explorer.sigma = 0.5, 0.8
    started: list[Any] = []
    monkeypatch.setattr(explorer._policies[0], "reset", lambda *given: started.append(given))
    obs, fresh = torch.ones(2, 50, 3, 5), torch.zeros(2, 50, dtype=torch.bool)
    action = explorer.explore(obs, None, ReplicaRandom([0, 1], "test"), fresh)
    leaves, noise = twin.uniform(50, 4)[..., 1:] < 0.5, twin.normal(50, 3, 2)
    own = learner.policy().act(obs)
    noisy = (own + 0.8 * noise * learner.action_dimensions).clamp(-1.0, 1.0)
    assert torch.equal(action, torch.where(leaves.unsqueeze(-1), noisy, own))
    assert (action.abs() == 1.0).any()
    assert started == [(50, fresh)]  # episodes that go on keep their memory


def test_partners_act_offline_until_the_team_is_better() -> None:
    learner, before = (marlzoo.make("qmix_cql", toy_spec("discrete"), seeds=[0, 1], **QMIX) for _ in range(2))
    with torch.no_grad():
        for team, best in ((learner.team, 1), (before.team, 2)):
            team.agents.network.head.bias[..., best] += 100.0
    explorer = TeamExplorer(learner, "sequential", before.policy())
    explorer.trusted[1] = True
    fresh = torch.ones(2, 5, dtype=torch.bool)
    mask = torch.ones(2, 5, 3, 4, dtype=torch.bool)
    action = explorer.explore(torch.zeros(2, 5, 3, 5), mask, ReplicaRandom([0, 1], "test"), fresh)
    assert action.unique().tolist() == [1, 2]
    assert (action[0] == 2).all()


# ---- batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kind"), [("td3_bc", "continuous"), ("qmix_cql", "discrete")])
def test_a_batch_has_the_stated_share_of_offline_data(method: str, kind: Any) -> None:
    learner = marlzoo.make(method, toy_spec(kind), seeds=[0, 1], hidden=8, batch_size=10)
    data = toy_dataset(kind)
    data.reward[:] = 100.0
    replay = MixedReplay(learner, [data], TINY)
    collector = Collector(learner, ToyEnv(4, kind), TINY, TeamExplorer(learner, "joint"))
    collector.restart(0)
    seen = [collector.collect(0.0) for _ in range(3)]
    for rollout in seen:
        replay.add(rollout)
    name = "agent_reward" if "agent_reward" in learner.fields else "reward"
    shares = []
    for _ in range(40):
        batch = replay.batch(0.27, collector.learning)
        offline_rows = getattr(batch, name).flatten(2)[:, :, 0] == 100.0
        shares.append(offline_rows.float().mean(1))
    assert torch.stack(shares).mean(0).tolist() == pytest.approx([0.27, 0.27], abs=1e-6)
    if method == "td3_bc":  # the rest are transitions of the rollouts, whole
        new = torch.cat([rollout.obs.flatten(1, 2) for rollout in seen], 1)
        later = torch.cat([rollout.next_obs.flatten(1, 2) for rollout in seen], 1)
        for r, k in zip(*torch.nonzero(~offline_rows, as_tuple=True), strict=True):
            at = (new[r] == batch.obs[r, k]).flatten(1).all(1)
            assert (later[r, at] == batch.next_obs[r, k]).flatten(1).all(1).any()


def test_a_batch_has_as_many_rows_as_the_method_draws_from() -> None:
    """MADDPG+CQL with ``prioritize`` chooses its rows among several times as many."""
    settings = {"prioritize": "joint_action", "candidates": 4, "hidden": 8, "critic_hidden": 8, "batch_size": 5}
    learner = marlzoo.make("maddpg_cql", toy_spec("continuous"), seeds=[0], **settings)
    replay = MixedReplay(learner, [toy_dataset("continuous")], TINY)
    collector = Collector(learner, ToyEnv(2, "continuous"), TINY, TeamExplorer(learner, "joint"))
    collector.restart(0)
    replay.add(collector.collect(0.0))
    assert replay.batch(0.5, collector.learning).obs.shape[1] == learner.batch_rows == 20


# ---- the whole -------------------------------------------------------------------------------------------

FORMS: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("omiga", "continuous", "plain", {}),
    ("qmix_cql", "discrete", "ovmse", {"last_action": True, "sequence_length": 4}),
]


@pytest.mark.parametrize(("method", "kind", "strategy", "settings"), FORMS)
def test_it_starts_with_the_offline_score_and_resumes_exactly(
    method: str, kind: Any, strategy: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    file, evaluations = offline(tmp_path, method, kind, **settings)
    how = FinetuneSettings(**{**vars(TINY), "strategy": strategy})
    metrics, resumed_metrics = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    whole = tuned(file, kind, settings=how, eval_every=8, loggers=[MetricsFile(metrics)])
    assert whole.steps == (0, 8, 16, 24, 32)
    np.testing.assert_array_equal(whole.evaluations[0].episodes.returns, evaluations[-1].episodes.returns)
    place = {"checkpoint": tmp_path / "tuned.npz", "settings": how, "eval_every": 8}
    part = tuned(file, kind, until=10, loggers=[MetricsFile(resumed_metrics)], **place)
    assert part.steps == (0, 8, 16)
    resumed = tuned(file, kind, loggers=[MetricsFile(resumed_metrics)], **place)
    np.testing.assert_array_equal(whole.returns, resumed.returns)
    mine, theirs = whole.learner.state_tensors(), resumed.learner.state_tensors()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert resumed.learner.updates == 3 + 4 * 2
    assert marlzoo.load(tmp_path / "tuned.npz", best=True).updates == resumed.learner.updates
    with pytest.raises(CheckpointError, match="another fine-tuning; rounds differ"):
        tuned(file, kind, env_steps=40, loggers=[MetricsFile(resumed_metrics)], **place)
    assert len(metrics.read_text().splitlines()) > 4
    assert resumed_metrics.read_text() == metrics.read_text()


def test_summary_by_hand() -> None:
    def at(*means: float) -> Any:
        found = marlzoo.training.evaluation.EpisodeResults(
            np.array([[m] for m in means]), np.ones((2, 1)), None
        )
        return marlzoo.training.evaluation.Evaluation(0, found, np.zeros(2, bool), 0.0)

    learner = marlzoo.make("bc", toy_spec(), seeds=[0, 1], hidden=8)
    found = Finetuned(learner, (0, 10, 30, 100), (at(4, 1), at(1, 2), at(0, 2), at(10, 2)))
    first, second = found.summaries
    assert (first.start, first.dip, first.final) == (
        4,
        3,
        10,
    )  # the lowest return comes later than the first fifth
    assert first.area == pytest.approx((10 * 2.5 + 20 * 0.5 + 70 * 5) / 100)
    assert second.dip == 0
    assert second.area == pytest.approx((10 * 1.5 + 90 * 2) / 100)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    data = marlzoo.load_dataset("games/xor/marlzoo/D3")
    learner = marlzoo.make("qmix_cql", data.spec, history="mlp", **QMIX)
    train(learner, data, updates=2, compile="off", checkpoint="run/checkpoints/a.npz", show_progress=False)
    small = "--rollout 2 --learn-steps 1 --warmup 0 --episodes 2 --strategy ovm --set cql_weight=1.5 --name f"
    command = ["finetune", "run", "--env-steps", "24", *small.split(), "--json"]
    assert main([*command, "--log", "tensorboard"]) == 0
    (run,) = (tmp_path / "results/f/tensorboard").iterdir()
    assert run.name == "qmix_cql-xor-0"
    assert any(run.iterdir())
    (line,) = json.loads(capsys.readouterr().out)
    assert line.keys() == {"seed", "start", "dip", "area", "final"}
    lines = (tmp_path / "results/f/curve.csv").read_text()
    assert lines.splitlines()[-1].startswith("0,24,5,")
    monkeypatch.setattr(type(learner), "update", lambda *_: pytest.fail("trained again"))
    assert main(command) == 0
    assert (tmp_path / "results/f/curve.csv").read_text() == lines
    assert marlzoo.load_learner("results/f/checkpoint.npz").config.to_dict()["cql_weight"] == 1.5
    capsys.readouterr()
    assert main(["finetune", "run", "--env-steps", "24", "--epsilon", "2"]) == 2
    assert "epsilon is 2.0; it must lie in [0, 1]" in capsys.readouterr().err
    assert main([*command, "--log", "tensorbord"]) == 2
    assert "Did you mean tensorboard" in capsys.readouterr().err


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind", "settings", "reason"),
    [
        ("bc", "continuous", {}, "does not learn from rewards"),
        ("cfcql", "discrete", {}, "whole dataset before the first update"),
        ("mappo", "continuous", {}, "learns online from the start"),
        ("comadice", "continuous", {}, "needs first of logged data"),
        ("omiga", "discrete", {"reward_mode": "rtg"}, "returns-to-go.*; train it with reward_mode = reward$"),
        ("madt", "discrete", {}, "it reads returns-to-go, which are not known before an episode's end$"),
        ("madiff", "continuous", {}, "it reads returns-to-go, which are not known before an episode's end$"),
    ],
)
def test_methods_without_an_online_form(
    method: str, kind: Any, settings: dict[str, Any], reason: str
) -> None:
    learner = marlzoo.make(method, toy_spec(kind), hidden=8, **settings)
    with pytest.raises(ConfigError, match=f"{method} cannot be fine-tuned: .*{reason}"):
        require_online_form(learner)


def test_bad_input(tmp_path: Path) -> None:
    other = marlzoo.make("alberdice", toy_spec("discrete"), hidden=8)
    with pytest.raises(ConfigError, match=r"alberdice .* memory of its values: its critics learn advantages"):
        require_online_form(other, FinetuneSettings(strategy="ovm"))
    learner = marlzoo.make("omsd", toy_spec("continuous"), hidden=8)
    save(tmp_path / "omsd.npz", learner)
    with pytest.raises(ConfigError, match=r"omsd .* memory of its values: its critics no longer learn"):
        finetune(tmp_path / "omsd.npz", 32, settings=FinetuneSettings(strategy="ovm"))
    file, _ = offline(tmp_path, "td3_bc", "continuous")
    with pytest.raises(
        DataError, match="offline data toy/walk/test/seed0 are not found; name them with --data"
    ):
        tuned(file, "continuous", data=())
    with pytest.raises(ConfigError, match="hidden cannot change in fine-tuning"):
        tuned(file, "continuous", overrides={"hidden": 16})
    with pytest.raises(ConfigError, match="env_steps is 0"):
        tuned(file, "continuous", env_steps=0)
    with pytest.raises(
        ConfigError, match="warmup is 33, but all environment steps are 32: nothing would be learned"
    ):
        tuned(file, "continuous", settings=replace(TINY, warmup=33))
    with pytest.raises(DataError, match="3 datasets for 2 replicas"):
        tuned(file, "continuous", data=[toy_dataset(seed=k) for k in (1, 2, 3)])
    with pytest.raises(ConfigError, match="replay of 8 steps has no room"):
        tuned(file, "continuous", settings=FinetuneSettings(num_envs=4, rollout=4, replay=8, warmup=8))
