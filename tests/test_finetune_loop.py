"""The loop of fine-tuning, part by part: what each round uses, and what a checkpoint brings back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.errors import DataError
from marlzoo.training import checkpoint, finetune_loop
from marlzoo.training import finetune as finetuning
from marlzoo.training.evaluation import EpisodeResults
from marlzoo.training.finetune import _datasets, _without_online_form
from marlzoo.training.finetune_loop import Finetuning, _fingerprint
from marlzoo.training.finetune_settings import FinetuneSettings
from tests.test_finetune import QMIX, TINY, offline, tuned
from tests.toys import ToyEnv, toy_dataset, toy_spec


def learner() -> Any:
    return marlzoo.make("qmix_cql", toy_spec("discrete"), seeds=[3, 5], history="mlp", **QMIX)


def loop(total: int = 6, eval_rounds: int = 4, horizon: int | None = None, **how: Any) -> Finetuning:
    settings = FinetuneSettings(**{**vars(TINY), "strategy": "ovmse", **how})
    about = {"task": "toy/walk", "env": {}, "episodes": 2, "horizon": horizon}
    copies = ToyEnv(2 * settings.num_envs, "discrete"), ToyEnv(4, "discrete")
    data = [toy_dataset("discrete")]
    return Finetuning(learner(), learner(), *copies, data, settings, about, total, eval_rounds)


def falling(start: float, end: float, progress: float) -> float:
    """Linear until half of the steps are done."""
    return start + (end - start) * min(1.0, progress / 0.5)


def test_every_round_uses_its_place_in_the_schedules() -> None:
    """Eight steps a round: two rounds warm up, four learn twice each; copies start anew in every other round."""
    ends = {"data_share_end": 0.25, "epsilon_end": 0.1, "memory_end": 0.2}
    schedule = {"data_share": 0.75, "epsilon": 0.5, "memory": 0.8, "anneal": 0.5, **ends}
    tuning = loop(warmup=24, **schedule)
    restarts, cuts, shares, epsilons, weights = (
        list[int](),
        list[int](),
        list[float](),
        list[float](),
        list[float](),
    )
    collector, replay = tuning.collector, tuning.replay
    own: Any = tuning.learner

    def restart(number: int, real: Any = collector.restart) -> None:
        restarts.append(number)
        real(number)

    def cut(real: Any = replay.replay.cut) -> None:
        cuts.append(tuning.round)
        real()

    def collect(progress: float, real: Any = collector.collect) -> Any:
        epsilons.append(tuning.explorer.epsilon)
        return real(progress)

    def batch(share: float, random: Any, real: Any = replay.batch) -> Any:
        shares.append(share)
        return real(share, random)

    def update(given: Any, real: Any = own.update) -> Any:
        assert own.memory is tuning.memory
        assert tuning.memory is not None
        weights.append(tuning.memory.weight)
        return real(given)

    collector.restart, collector.collect = restart, collect  # type: ignore[method-assign]
    replay.replay.cut, replay.batch = cut, batch  # type: ignore[method-assign]
    own.update = update
    tuning.go(None, None, None, None)
    learning = [k / 6 for k in (2, 2, 3, 3, 4, 4, 5, 5)]
    assert (restarts, cuts) == ([0, 1, 2], [0, 2, 4])
    assert epsilons == pytest.approx([falling(0.5, 0.1, k / 6) for k in range(6)])
    assert shares == pytest.approx([falling(0.75, 0.25, at) for at in learning])
    assert weights == pytest.approx([falling(0.8, 0.2, at) for at in learning])
    assert tuning.steps == [0, 32, 48]  # at the end, too
    assert own.updates == 8
    assert own.memory is None


def test_memory_and_partners_are_the_learner_as_it_was() -> None:
    made = [learner(), learner()]
    for strategy, partners in (("plain", 0), ("ovm", 0), ("ovmse", 1)):
        settings = FinetuneSettings(**{**vars(TINY), "strategy": strategy})
        about: dict[str, Any] = {"task": "toy/walk", "horizon": None}
        copies = ToyEnv(4, "discrete"), ToyEnv(4, "discrete")
        tuning = Finetuning(*made, *copies, [toy_dataset("discrete")], settings, about, 2, 1)
        assert (tuning.memory is None) == (strategy == "plain")
        assert tuning.memory is None or tuning.memory.offline is made[1]
        own, *others = tuning.explorer._policies
        assert len(others) == partners
        for policy, of in ((own, made[0]), *((other, made[1]) for other in others)):
            theirs = {parameter.data_ptr() for parameter in of.parameters()}
            assert {parameter.data_ptr() for parameter in policy.parameters()} <= theirs
        assert tuning.explorer.trusted.all() == (partners == 0)


def test_a_team_is_trusted_once_it_is_better_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    means = iter([(1.0, 1.0), (1.0, 2.0), (0.0, 0.0)])
    asked: list[Any] = []

    def played(*_: Any, **named: Any) -> EpisodeResults:
        asked.append(named["horizon"])
        returns = np.repeat(np.array(next(means))[:, None], 2, 1)
        return EpisodeResults(returns, np.ones((2, 2)), None)

    monkeypatch.setattr(finetune_loop, "evaluate", played)
    tuning = loop(horizon=7)
    trusted = []
    for _ in range(3):
        tuning._evaluate(None)
        trusted.append(tuning.explorer.trusted.tolist())
    assert trusted == [[False, False], [False, True], [False, True]]
    assert asked == [7, 7, 7]


def test_every_team_acts_by_itself_after_the_annealing() -> None:
    """A team that never does cannot learn what its own actions earn, and would stay below the offline return."""
    tuning = loop(total=4, anneal=0.5, warmup=1000)
    trusted = []
    for _ in range(4):
        tuning._next()
        trusted.append(tuning.explorer.trusted.any().item())
    assert trusted == [False, False, True, True]


def test_a_checkpoint_brings_back_rounds_and_trust(tmp_path: Path) -> None:
    file, first = tmp_path / "tuned.npz", loop()
    first.explorer.trusted[0] = True
    first.go(16, file, None, None)  # to the first restart of the copies
    assert checkpoint.load_saved(file).meta["round"] == 2
    trusted = first.explorer.trusted.tolist()
    again = loop()
    again.resume(file)
    assert (again.round, again.steps) == (2, [0])
    assert again.explorer.trusted.tolist() == trusted
    assert trusted[0]


def test_other_numbers_are_another_learner() -> None:
    one, other = learner(), learner()
    assert _fingerprint(one) == _fingerprint(other)
    with torch.no_grad():
        next(other.parameters())[0] += 1.0
    assert _fingerprint(one) != _fingerprint(other)


def test_the_loop_is_given_the_learner_as_it_was_and_the_run_s_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = offline(tmp_path, "td3_bc", "continuous")
    saved = checkpoint.load_saved(file)
    saved = replace(saved, meta={**saved.meta, "horizon": 17})
    given: list[Any] = []

    class StopError(Exception): ...

    def stop(*arguments: Any) -> None:
        given.append(arguments)
        raise StopError

    monkeypatch.setattr(finetuning, "Finetuning", stop)
    monkeypatch.setattr(finetuning, "load_saved", lambda _: saved)
    for more, horizon in (({}, 17), ({"horizon": 5}, 5)):
        with pytest.raises(StopError):
            tuned(file, "continuous", **more)
        assert given[-1][6]["horizon"] == horizon
        assert given[-1][0] is not given[-1][1]


def test_a_method_may_say_itself_whether_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    method: Algorithm = marlzoo.make("bc", toy_spec(), hidden=8)
    for said, reason in (
        (True, ""),
        (False, "declares that it has no online form"),
        (None, "learn from rewards"),
    ):
        monkeypatch.setattr(type(method), "finetunable", said, raising=False)
        assert reason in _without_online_form(method)
        assert bool(reason) == bool(_without_online_form(method))


def test_offline_data_are_those_of_the_training_in_its_order(tmp_path: Path) -> None:
    one, other = toy_dataset(seed=1), toy_dataset(seed=2)
    meta = {"data": [other.content_hash, one.content_hash]}
    assert [data.content_hash for data in _datasets([one, other], meta, one.spec, 2)] == meta["data"]
    with pytest.raises(
        DataError, match="the checkpoint does not name its offline data; name them with --data"
    ):
        _datasets((), {}, one.spec, 2)
    with pytest.raises(DataError, match=r"^(?!the offline data)"):  # the error of the file that was named
        _datasets(str(tmp_path / "nothing.hdf5"), {"sources": ["a"]}, one.spec, 2)
