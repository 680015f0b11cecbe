"""The Dyna form of methods: chains, buffer and mixture by hand, and what has no such form."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.batch import Batch
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from marlzoo.registry import find_method
from marlzoo.testing import battery
from marlzoo.testing.cases import SMALL
from marlzoo.training.trainer import make_sampler, prepare, train
from tests.toys import toy_dataset, toy_spec

SIZES: dict[str, Any] = {**SMALL, "dyna_starts": 4, "dyna_horizon": 2, "dyna_buffer": 8}
CHECKS = ("lockstep_equals", "nan_stays", "learns_acts_and_resumes")
FORM = "dyna_td3_bc"


def learner(method: str = FORM, **settings: Any) -> Any:
    known = {name: value for name, value in SIZES.items() if name in vars(find_method(method).config_class())}
    return marlzoo.make(method, toy_spec(), seeds=(0, 1), dtype=torch.float64, **(known | settings))


def ready(**settings: Any) -> tuple[Any, Any]:
    """A learner past its world model's stage, and its sampler."""
    algorithm = learner(**settings)
    prepare(algorithm, [toy_dataset()])
    algorithm.updates = SIZES["model_updates"]
    return algorithm, make_sampler(algorithm, [toy_dataset()])


@pytest.mark.parametrize(
    "check",
    [
        c
        for c in battery(FORM, sizes=SIZES)
        if c.name.startswith(CHECKS) and c.name.endswith(f"{FORM}-continuous")
    ],
    ids=str,
)
def test_battery(check: Any, tmp_path: Path) -> None:
    check(tmp_path)


def test_with_data_alone_it_is_the_plain_method() -> None:
    """A share of 1, before and after the buffer is full; and the stage before ``dyna_start``."""
    for settings in ({"dyna_share": 1.0}, {"dyna_start": 50}):
        algorithm, sampler = ready(**settings)
        plain = learner("td3_bc")
        own = plain.noise()
        for _ in range(4):
            batch = sampler.next()
            rows = {name: getattr(batch, name)[:, : plain.config.batch_size] for name in plain.fields}
            algorithm.update(batch)
            plain.update(Batch.of({name: batch.noise[name] for name in own}, **rows))
        state = algorithm.state_tensors()
        for name, value in plain.state_tensors().items():
            assert torch.equal(value, state[name]), name
        assert (algorithm.pushed > 0).all() == ("dyna_share" in settings)


def test_chains_follow_the_model_and_the_buffer_keeps_the_last_steps() -> None:
    algorithm, sampler = ready(dyna_penalty=2.0)
    first, second, third = (sampler.next() for _ in range(3))
    starts = slice(algorithm.config.batch_size, algorithm.config.batch_size + 4)
    world = algorithm.dyna_world
    algorithm._extend(first)
    frame, action = algorithm.kept_frame[:, :4], algorithm.kept_action[:, :4]
    assert torch.equal(frame, world.frame(first.obs, first.state)[:, starts])
    found = world.predict(frame, action)
    unsure = found.uncertainty()
    least = found.team_reward.amin(1) - 2.0 * (unsure.reward + unsure.aleatoric)
    torch.testing.assert_close(algorithm.kept_agent_reward[:, :4].mean(-1), least)
    assert (least < found.team_reward.mean(1)).all()
    after, _, mask = found.drawn(first.noise["dyna_member"])
    torch.testing.assert_close(algorithm.kept_next_frame[:, :4], after)

    algorithm._extend(second)
    begun = world.frame(second.obs, second.state)[:, starts]
    goes_on = mask.bool().unsqueeze(-1)
    torch.testing.assert_close(algorithm.kept_frame[:, 4:], torch.where(goes_on, after, begun))
    algorithm._extend(third)  # over the oldest; chains that went on have reached their two steps
    began_anew = algorithm.kept_frame[:, :4] == world.frame(third.obs, third.state)[:, starts]
    assert began_anew.all(-1)[mask.bool()].all()
    assert algorithm.pushed.tolist() == [12, 12]


def test_the_model_is_scaled_by_the_data_and_fitted_first() -> None:
    algorithm, data = learner(), toy_dataset()
    assert algorithm.name == FORM
    prepare(algorithm, [data])
    other = learner().dyna_world
    assert not torch.equal(algorithm.dyna_world.center, other.center)
    other.observe([data, data])
    assert torch.equal(algorithm.dyna_world.center, other.center)
    before = {name: value.clone() for name, value in algorithm.state_tensors().items()}
    metrics = algorithm.update_model(make_sampler(algorithm, [data]).next())
    assert set(metrics) == {"world/loss", "world/held_out_error", "grad_norm/world"}  # one part, one name
    moved = {name for name, now in algorithm.named_parameters() if not torch.equal(now, before[name])}
    assert moved
    assert all(name.startswith("dyna_world.") for name in moved)


def test_rows_of_the_mixture() -> None:
    algorithm, sampler = ready(dyna_share=0.5)
    batch = sampler.next()
    algorithm._extend(batch)
    assert torch.equal(algorithm._mixed(batch).obs, algorithm._real(batch).obs)  # the buffer is half full
    algorithm._extend(sampler.next())
    mixed, real = algorithm._mixed(batch), algorithm._real(batch)
    own = (mixed.obs == real.obs).flatten(2).all(-1)
    assert torch.equal(own, batch.noise["dyna_real"] < 0.5)
    row = (batch.noise["dyna_row"] * 8).long()
    for r in range(2):
        for b in (~own[r]).nonzero().flatten():
            place = row[r, b]
            assert torch.equal(mixed.action[r, b], algorithm.kept_action[r, place])
            assert torch.equal(mixed.next_obs[r, b].flatten(), algorithm.kept_next_frame[r, place][:15])
            assert mixed.mask[r, b] == algorithm.kept_mask[r, place]


def transition_learners() -> list[tuple[str, Any]]:
    """Methods that learn from single logged steps in one stage, with a kind of actions each handles."""
    found = []
    for method in marlzoo.method_names():
        with contextlib.suppress(ConfigError):
            cls = find_method(f"dyna_{method}")
            kind = cls.actions[0]
            known = vars(cls.config_class())
            settings = {name: value for name, value in SIZES.items() if name in known}
            settings |= {"history": "mlp"} if "history" in known else {}
            made = marlzoo.make(
                f"dyna_{method}", toy_spec(kind), seeds=(0, 1), dtype=torch.float64, **settings
            )
            found.append((method, made))
    return found


def test_every_transition_learner_has_a_dyna_form() -> None:
    """Also those whose own parts have names of their own; two replicas, the model's stage and the mixture."""
    found = transition_learners()
    assert {"cfcql", "mabcq", "mac_flow", "omiga", "td3_bc"} <= {method for method, _ in found}
    for method, algorithm in found:
        kind = algorithm.spec.action_kind
        data = toy_dataset(kind) if kind == "continuous" else always_legal()
        prepare(algorithm, [data])
        sampler = make_sampler(algorithm, [data])
        for _ in range(4):
            algorithm.update(sampler.next())
            algorithm.updates += 1
        assert (algorithm.pushed > 0).all(), method
        assert algorithm.finite().all(), method


def always_legal() -> Any:
    """The discrete toy data with every action that an agent has legal."""
    data = toy_dataset("discrete")
    has = np.arange(data.spec.action_size) < np.array(data.spec.action_sizes)[:, None]
    arrays: dict[str, Any] = {**data.arrays, "starts": data.starts}
    arrays["action_mask"] = np.repeat(has[None], data.rows, axis=0)
    return Dataset.create(data.spec, **arrays, card=data.card)


def test_what_has_no_dyna_form() -> None:
    with pytest.raises(ConfigError, match="more than transitions have; leave --dyna out"):
        marlzoo.make("dyna_madt", toy_spec(), sequence_length=4)
    with pytest.raises(ConfigError, match="mappo has no Dyna form"):
        find_method("dyna_mappo")
    with pytest.raises(ConfigError, match="moma_ppo has no Dyna form"):
        find_method("dyna_moma_ppo")
    with pytest.raises(UnknownNameError):
        find_method("dyna_nothing")
    with pytest.raises(ConfigError, match="learns from sequences"):
        learner(history="rnn", sequence_length=4)
    with pytest.raises(ConfigError, match="dyna_buffer"):
        learner(dyna_buffer=3)
    with pytest.raises(ConfigError, match="reward_mode"):
        learner(reward_mode="rtg")
    small = {name: SIZES[name] for name in ("members", "elites", "model_updates", "hidden", "batch_size")}
    discrete = marlzoo.make("dyna_iql", toy_spec("discrete"), **small)
    with pytest.raises(DataError, match="not every action is always legal"):
        train(discrete, toy_dataset("discrete"), updates=SIZES["model_updates"] + 1)


def test_a_large_penalty_makes_every_step_of_the_model_worse_than_the_datas() -> None:
    for penalty, worse in ((0.0, False), (1e4, True)):
        algorithm, sampler = ready(dyna_penalty=penalty)
        algorithm._extend(sampler.next())
        paid = algorithm.kept_agent_reward[:, :4].mean(-1)
        assert bool((paid < float(toy_dataset().reward.min())).all()) == worse
