"""Configuration, random streams, networks, optimizer, sampler, registry."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.config import Config, Count, Fraction, replica_configs
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler, sequence_pieces
from marlzoo.errors import ConfigError, DataError, PluginError, SpecError, UnknownNameError
from marlzoo.families import Task, find_task, make_env, task_names, task_spec
from marlzoo.modules.layers import GRU, MLP, Linear
from marlzoo.registry import Preset, find_method, find_methods, preset_of
from marlzoo.replicas import BlockStream, Init, ReplicaRandom, StackedAdam, derive, generators
from marlzoo.spec import ActionKind, Spec
from marlzoo.task import TaskName
from marlzoo.training.trainer import make_sampler, train
from tests.toys import ToyEnv, toy_dataset, toy_spec


@dataclass(frozen=True)
class Example(Config):
    tau: Fraction = 0.5  # a number
    layers: Count = 2  # a count
    mode: Literal["a", "b"] = "a"  # a choice
    sizes: tuple[int, ...] = (1, 2)  # several


class TestConfig:
    def test_per_replica_values(self) -> None:
        configs = replica_configs(Example, 3, {"tau": [0.1, 0.2, 0.3], "layers": 4}, {"gamma": 0.9})
        assert [c.tau for c in configs] == [0.1, 0.2, 0.3]
        assert {(c.layers, c.gamma) for c in configs} == {(4, 0.9)}

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"tau": 1.5}, r"'tau' of Example is 1.5; it must lie in \[0, 1\]"),
            ({"tau": "x"}, "must be of type float"),
            ({"tau": math.nan}, "NaN"),
            ({"layers": 0}, r"must lie in \[1, inf\)"),
            ({"layers": 2.5}, "must be of type int"),
            ({"layers": True}, "must be of type int"),
            ({"mode": "c"}, "choose one of 'a', 'b'"),
            ({"tau": [0.1, 0.2]}, "lists 2 values for 3 replicas"),
            ({"sizes": (1, "x")}, "must be of type int"),
        ],
    )
    def test_wrong_values(self, settings: dict[str, object], text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            replica_configs(Example, 3, settings)

    def test_unknown_setting_names_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean layers"):
            replica_configs(Example, 1, {"layer": 3})

    def test_hash_tells_settings_apart(self) -> None:
        assert Example().hash == Example(tau=0.5).hash != Example(tau=0.4).hash

    def test_seeds_and_spec(self) -> None:
        for seeds in (3, "0", [-1], [0.5], [True]):
            with pytest.raises(ConfigError, match="give a list of integers"):
                marlzoo.make("bc", toy_spec(), seeds=seeds)
        with pytest.raises(SpecError, match=r"must be a marlzoo\.Spec, got dict"):
            marlzoo.make("bc", toy_spec().to_dict())

    def test_shared_settings_must_agree(self) -> None:
        cls = find_method("omiga")
        with pytest.raises(ConfigError, match="replicas differ in 'hidden'"):
            cls(toy_spec(), [0, 1], [cls.config_class(hidden=8), cls.config_class(hidden=16)])


class TestRandom:
    def test_named_streams(self) -> None:
        assert derive(0, "a") == derive(0, "a") != derive(0, "b") != derive(1, "a")
        assert derive(7, "sample") == 351018272917029883  # fixed for all time: results depend on it

    @pytest.mark.parametrize("place", [0, 3, 8, 11])
    def test_block_stream_resumes_anywhere(self, place: int) -> None:
        def stream() -> BlockStream:
            return BlockStream(generators([1, 2], "x"), lambda r, g, n: torch.rand((n, 3), generator=g), 8)

        whole = stream()
        items = [whole.next() for _ in range(20)]
        first = stream()
        for _ in range(place):
            first.next()
        second = stream()
        second.restore(**first.state())  # type: ignore[arg-type]
        for item in items[place:]:
            assert torch.equal(second.next(), item)

    def test_replicas_do_not_depend_on_neighbors(self) -> None:
        both, one = ReplicaRandom([3, 4], "n"), ReplicaRandom([4], "n")
        for _ in range(3):
            assert torch.equal(both.normal(5)[1], one.normal(5)[0])
        assert torch.equal(both.permutation(9)[1], one.permutation(9)[0])


class TestNets:
    def test_stacked_linear_equals_torch(self) -> None:
        layer = Linear(Init([0, 1], dtype=torch.float64), 4, 3)
        x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
        for r in range(2):
            expected = torch.nn.functional.linear(x[r], layer.weight[r].T, layer.bias[r, 0])
            torch.testing.assert_close(layer(x)[r], expected)

    def test_initial_values_follow_torch_defaults(self) -> None:
        weight = Linear(Init(list(range(50))), 16, 32).weight
        assert weight.abs().max().item() <= 0.25
        assert weight.std().item() == pytest.approx(0.25 / math.sqrt(3), rel=0.02)

    def test_orthogonal(self) -> None:
        weight = Linear(Init([0, 1], dtype=torch.float64), 6, 4, gain=2.0).weight
        torch.testing.assert_close(weight.mT @ weight, 4.0 * torch.eye(4).double().expand(2, 4, 4))

    def test_precisions_start_alike(self) -> None:
        single, double = (MLP(Init([5], dtype=d), (3, 8, 1)) for d in (torch.float32, torch.float64))
        for a, b in zip(single.parameters(), double.parameters(), strict=True):
            assert torch.equal(a, b.float())

    def test_gru_equals_torch(self) -> None:
        ours, theirs = (
            GRU(Init([0], dtype=torch.float64), 3, 5),
            torch.nn.GRU(3, 5, batch_first=True).double(),
        )
        theirs.weight_ih_l0.data = ours.input.weight[0].T.clone()
        theirs.weight_hh_l0.data = ours.recurrent.weight[0].T.clone()
        theirs.bias_ih_l0.data, theirs.bias_hh_l0.data = ours.input.bias[0, 0], ours.recurrent.bias[0, 0]
        x = torch.randn(1, 4, 7, 2, 3, dtype=torch.float64)
        outputs, last = ours(x)
        expected, _ = theirs(x[0].transpose(1, 2).reshape(8, 7, 3))
        torch.testing.assert_close(outputs[0].transpose(1, 2).reshape(8, 7, 5), expected)
        torch.testing.assert_close(last[0].reshape(8, 5), expected[:, -1])
        halves = ours(x[:, :, 3:], ours(x[:, :, :3])[1])[1]
        torch.testing.assert_close(halves, last)


class TestOptimizer:
    def test_equals_torch_per_replica(self) -> None:
        torch.manual_seed(0)
        shapes, clips, rates = [(2, 3, 4), (2, 1, 4)], [0.5, math.inf], [1e-2, 1e-3]
        stacked = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
        single = [[torch.nn.Parameter(p[r].detach().clone()) for p in stacked] for r in range(2)]
        ours = StackedAdam(stacked, torch.tensor(rates).double(), torch.tensor(clips).double())
        theirs = [torch.optim.Adam(single[r], lr=rates[r]) for r in range(2)]
        for _ in range(10):
            grads = [torch.randn_like(p) for p in stacked]
            ours.step(grads)
            for r in range(2):
                for p, g in zip(single[r], grads, strict=True):
                    p.grad = g[r].clone()
                torch.nn.utils.clip_grad_norm_(single[r], clips[r])
                theirs[r].step()
        for k, p in enumerate(stacked):
            for r in range(2):
                torch.testing.assert_close(p[r], single[r][k], rtol=1e-6, atol=1e-9)


class TestSampler:
    def test_next_is_the_row_below_and_episodes_are_not_crossed(self) -> None:
        data = toy_dataset()
        fields = ("obs", "next_obs", "state", "next_state", "action", "reward", "mask")
        sampler = Sampler(data, [0, 1], batch_size=256, fields=fields, timeout_is_terminal=False)
        batch = sampler.next()
        index = {data.obs[row].tobytes(): row for row in range(data.rows)}
        for r in range(2):
            for b in range(256):
                row = index[batch.obs[r, b].numpy().tobytes()]
                assert row in data.sources
                assert np.array_equal(batch.next_obs[r, b], data.obs[row + 1])
                assert np.array_equal(batch.next_state[r, b], data.state[row + 1])
                assert batch.mask[r, b] == 1 - data.terminal[row]

    def test_time_limits(self) -> None:
        data = toy_dataset()
        for flag in (False, True):
            mask = Sampler(data, [0], batch_size=1, fields=(), timeout_is_terminal=flag)._mask.numpy()
            np.testing.assert_array_equal(mask == 0, data.terminal | (flag & data.truncated))

    @pytest.mark.parametrize("length", [0, 3])
    def test_sequences(self, length: int) -> None:
        data = toy_dataset()
        sampler = Sampler(data, [0], batch_size=64, fields=("obs", "action", "reward"), sequence=length)
        batch, longest = sampler.next(), length or int(data.lengths.max())
        assert batch.obs.shape == (1, 64, longest + 1, 3, 5)
        index = {data.obs[row].tobytes(): row for row in range(data.rows)}
        ends = np.append(data.starts[1:], data.rows) - 1
        for b in range(64):
            first = index[batch.obs[0, b, 0].numpy().tobytes()]
            episode = np.searchsorted(data.starts, first, side="right") - 1
            steps = int(batch.filled[0, b].sum())
            assert 1 <= steps <= min(longest, ends[episode] - first)
            cut = length and data.lengths[episode] > length
            assert cut or (first == data.starts[episode] and steps == data.lengths[episode])
            # A piece is short only where it begins or ends with its episode.
            assert steps == longest or first == data.starts[episode] or first + steps == ends[episode]
            np.testing.assert_array_equal(batch.obs[0, b, : steps + 1], data.obs[first : first + steps + 1])
            np.testing.assert_array_equal(batch.reward[0, b, :steps], data.reward[first : first + steps])

    @pytest.mark.parametrize("length", [1, 2, 3, 5, 12])
    def test_every_step_has_equal_weight_in_sequences(self, length: int) -> None:
        """Episodes of 1 to 12 steps: all steps are in equally many pieces, none in a piece twice."""
        lengths = np.array([1, 12, 3, 5, 2, 12])
        starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
        first, last = sequence_pieces(starts, lengths, length)
        seen = np.zeros(int((lengths + 1).sum()), int)
        for low, high in zip(first, last, strict=True):
            assert 1 <= high - low <= length
            seen[low:high] += 1
        final = starts + lengths
        assert (seen[final] == 0).all()
        assert set(np.delete(seen, final)) == {length if length < 12 else 1}

    def test_steps_of_sequences_are_drawn_equally_often(self) -> None:
        """Shares of the first and the last steps of episodes, drawn: within five standard deviations."""
        data = toy_dataset()
        sampler = Sampler(data, [0], batch_size=512, fields=("obs", "first", "mask"), sequence=6)
        drawn = [sampler.next() for _ in range(40)]
        real = sum(float(b.filled.sum()) for b in drawn)
        first = sum(float((b.first * b.filled).sum()) for b in drawn)
        ended = sum(float(((1.0 - b.mask) * b.filled).sum()) for b in drawn)
        for found, share in (
            (first / real, data.episodes / data.transitions),
            (ended / real, data.terminal.sum() / data.transitions),
        ):
            assert found == pytest.approx(share, abs=5 * np.sqrt(share / real))

    @pytest.mark.parametrize("kind", ["continuous", "discrete"])
    def test_the_past_is_the_rows_above_and_zero_before_the_episode(self, kind: ActionKind) -> None:
        """Two datasets of one learner, so that rows of the second lie behind those of the first."""
        both = [toy_dataset(kind, seed=0), toy_dataset(kind, seed=1)]
        fields = ("obs", "past_obs", "past_action")
        batch = Sampler(both, [0, 1], batch_size=256, fields=fields, past_steps=4).next()
        assert batch.past_obs.shape == (2, 256, 4, 3, 5)
        starting = 0
        for r, data in enumerate(both):
            index = {data.obs[row].tobytes(): row for row in range(data.rows)}
            for b in range(256):
                row = index[batch.obs[r, b].numpy().tobytes()]
                start = max(first for first in data.starts if first <= row)
                for k, back in enumerate((4, 3, 2, 1)):  # the oldest first
                    there = row - back >= start
                    for found, known in ((batch.past_obs, data.obs), (batch.past_action, data.action)):
                        assert np.array_equal(found[r, b, k], known[row - back] * there)
                if row == start:  # the specification's check: all zero
                    starting += 1
                    assert not batch.past_obs[r, b].any()
        assert starting

    def test_rewards_per_agent(self) -> None:
        data = toy_dataset()
        shared = Sampler(data, [0], batch_size=8, fields=("reward", "agent_reward")).next()
        torch.testing.assert_close(shared.agent_reward, shared.reward[..., None].expand(1, 8, 3))

    def test_wrong_data(self) -> None:
        with pytest.raises(DataError, match="2 datasets were given for 3 replicas"):
            Sampler([toy_dataset(), toy_dataset()], [0, 1, 2], batch_size=4, fields=("obs",))
        with pytest.raises(DataError, match="differ in action_kind"):
            Sampler([toy_dataset(), toy_dataset("discrete")], [0, 1], batch_size=4, fields=("obs",))
        with pytest.raises(DataError, match="which the data lack; add the array action_mask"):
            Sampler(toy_dataset(), [0], batch_size=4, fields=("action_mask",))
        with pytest.raises(SpecError, match="bc does not fit toy/walk/test/seed0: action_kind"):
            make_sampler(marlzoo.make("bc", toy_spec()), [toy_dataset("discrete")])

    def test_a_sequence_method_needs_the_episodes_bounds(self) -> None:
        data = toy_dataset(episodes=1)
        none = np.zeros(data.rows, np.bool_)
        unmarked = replace(data, terminal=none, truncated=none)
        unknown = unmarked.with_card(replace(data.card, bounds_known=False))
        Sampler(unknown, [0], batch_size=4, fields=("obs",)).next()
        Sampler(unmarked, [0], batch_size=4, fields=("obs",), sequence=3).next()  # one recording that was cut
        with pytest.raises(DataError, match="the bounds of its 1 episode are not known"):
            Sampler(unknown, [0], batch_size=4, fields=("obs",), sequence=3)
        with pytest.raises(DataError, match="the bounds of its 1 episode are not known"):
            Sampler(unknown, [0], batch_size=4, fields=("past_obs",), past_steps=3)

    def test_memory_is_shared(self) -> None:
        data = toy_dataset()
        store = Sampler(data, [0, 1], batch_size=4, fields=("obs",)).store
        assert store.obs.data_ptr() == data.obs.ctypes.data


class TestRegistry:
    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown method .omgia.\. Did you mean omiga"):
            find_method("omgia")
        with pytest.raises(UnknownNameError, match=r"Did you mean mamujoco/hopper-3x1"):
            make_env("mamujoco/hoper-3x1")

    def test_listing_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from marlzoo.registry import method_names; from marlzoo.families import task_names;"
            "assert 'omiga' in method_names(); assert 'mamujoco/hopper-3x1' in task_names();"
            "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_core_knows_no_method(self) -> None:
        core = Path(marlzoo.__file__).parent
        for file in core.rglob("*.py"):
            text, place = file.read_text(), file.relative_to(core).parts[0]
            assert "marlzoo.algorithms" not in text, file
            assert "marlzoo.baselines" not in text, file
            # Published data, their environments, and mixers are named after the papers that they came with.
            for name in (
                find_methods().modules if place not in ("data", "envs") and file.name != "teams.py" else ()
            ):
                assert f'"{name}"' not in text, (file, name)

    def test_broken_and_doubled_plugins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A plugin that fails, or takes a name in use, is reported and disturbs nothing else."""
        package = tmp_path / "zoo_plugin"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "bad.py").write_text("raise RuntimeError('broken inside')")
        (package / "leaves.py").write_text("import sys; sys.exit(3)")
        (package / "empty.py").write_text("")
        (package / "omiga.py").write_text("")
        info = tmp_path / "zoo_plugin-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-plugin\nVersion: 1\n")
        entries = "[marlzoo.plugins]\nzoo = zoo_plugin\ngone = no_such_package\n"
        (info / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(str(tmp_path))
        listing = find_methods()
        assert {"bad", "empty", "omiga", "bc"} <= listing.modules.keys()
        assert "gone (no_such_package)" in listing.broken
        with pytest.raises(PluginError, match="broken inside"):
            find_method("bad")
        with pytest.raises(PluginError, match="leaves failed: SystemExit: 3"):
            find_method("leaves")
        with pytest.raises(PluginError, match="defines 0 subclasses"):
            find_method("empty")
        with pytest.raises(PluginError, match=r"taken by marlzoo\.algorithms\.omiga and zoo_plugin\.omiga"):
            find_method("omiga")
        assert find_method("bc").__name__ == "BC"

    def test_task_specs_without_a_simulator(self) -> None:
        for task in task_names():
            assert task_spec(task).horizon >= 1


class TestTraining:
    def test_evaluations_and_progress(self, tmp_path: Path) -> None:
        algorithm = marlzoo.make("bc", toy_spec(), seeds=[0, 1], hidden=8)
        seen: list[int] = []
        found = train(
            algorithm, toy_dataset(), updates=25, env=ToyEnv, episodes=3, eval_every=10, log_every=5,
            check_data=False, checkpoint=tmp_path / "c.npz", on_progress=lambda done, _: seen.append(done),
        )  # fmt: skip
        assert [e.updates for e in found] == [10, 20, 25]
        assert found[0].episodes.returns.shape == (2, 3)
        assert seen == [5, 10, 15, 20, 25]
        again: list[int] = []
        second = train(
            marlzoo.make("bc", toy_spec(), seeds=[0, 1], hidden=8), toy_dataset(), updates=25, env=ToyEnv, episodes=3,
            eval_every=10, check_data=False, checkpoint=tmp_path / "c.npz",
            on_evaluation=lambda e: again.append(e.updates),
        )  # fmt: skip
        assert again == [10, 20, 25]
        np.testing.assert_array_equal(second[-1].episodes.returns, found[-1].episodes.returns)

    def test_evaluation_changes_nothing(self) -> None:
        results = []
        for every in (3, 100):
            algorithm = marlzoo.make("omiga", toy_spec("discrete"), hidden=8, mixer_hidden=4)
            env = lambda num_envs: ToyEnv(num_envs, "discrete")  # noqa: E731
            train(
                algorithm,
                toy_dataset("discrete"),
                updates=9,
                env=env,
                episodes=2,
                eval_every=every,
                check_data=False,
            )
            results.append(algorithm.state_tensors())
        for key, value in results[0].items():
            assert torch.equal(value, results[1][key])

    def test_diverged_replicas_are_marked(self) -> None:
        algorithm = marlzoo.make("omiga", toy_spec(), seeds=[0, 1, 2], hidden=8, mixer_hidden=4)
        data = [toy_dataset(), toy_dataset(nan_row=0), toy_dataset()]
        found = train(algorithm, data, updates=5, env=ToyEnv, episodes=2, check_data=False)[-1]
        assert found.diverged.tolist() == [False, True, False]
        assert np.isnan(found.episodes.returns[1]).all()
        assert np.isfinite(found.episodes.returns[[0, 2]]).all()

    @pytest.mark.parametrize("name", ["updates", "episodes", "eval_every", "checkpoint_every"])
    def test_wrong_counts(self, name: str) -> None:
        for wrong in (0, True, 1.0):
            arguments = {"updates": 5, name: wrong}
            with pytest.raises(ConfigError, match=f"{name} is {wrong}"):
                train(marlzoo.make("bc", toy_spec(), hidden=4), toy_dataset(), **arguments)  # type: ignore[arg-type]


def test_spec_checks() -> None:
    with pytest.raises(SpecError, match="n_agents must be a positive integer"):
        Spec(0, 1, 1, "continuous", 1, 1)
    with pytest.raises(SpecError, match="action_sizes"):
        Spec(2, 1, 1, "continuous", 2, 1, action_sizes=(1, 1))
    spec = toy_spec()
    assert Spec.from_dict(spec.to_dict()) == spec
    assert spec.differences(toy_spec("discrete"))[0].startswith("action_kind: continuous != discrete")


def test_a_spec_lays_out_the_arrays_of_its_data() -> None:
    spec = replace(toy_spec("discrete"), reward_per_agent=True)
    layout = spec.layout()
    assert list(layout) == ["obs", "state", "action", "reward", "terminal", "truncated", "action_mask"]
    assert layout["action"] == ((spec.n_agents,), np.int64, 0)
    assert layout["reward"].new(3, 2).shape == (3, 2, spec.n_agents)
    assert layout["action_mask"].new(2).all()
    assert toy_spec().layout()["action"].shape == (toy_spec().n_agents, toy_spec().action_size)
    data = toy_dataset("continuous")
    mask = np.ones((data.rows, 2, 1), np.bool_)
    with pytest.raises(DataError, match="action_mask is given, but the task's actions are continuous"):
        Dataset.create(data.spec, **data.own_arrays, starts=data.starts, action_mask=mask)


def test_offline_methods_have_presets_for_the_domains_of_their_actions() -> None:
    domains = {"continuous": {"mamujoco", "mpe"}, "discrete": {"smac"}}
    for name in find_methods().modules:
        method = find_method(name)
        if method.sampling != "online":
            wanted = set().union(*(domains[kind] for kind in method.actions))
            assert wanted <= method.presets.keys(), name


def test_a_task_in_its_parts() -> None:
    task = find_task("games/xor")
    assert (task.family, task.name, str(task)) == ("games", "xor", "games/xor")
    assert task.spec == task_spec("games/xor")
    assert task.preset == "defaults"
    assert str(TaskName.parse("bridge")) == TaskName.parse("bridge").family == "bridge"
    assert TaskName.parse("") == ("", "")
    assert TaskName.parse("smacv2/terran_5_vs_5").slug("--") == "smacv2--terran_5_vs_5"
    assert not Task.parse("games/xorr").exists
    assert not Task.parse("unknown/xor").exists
    with pytest.raises(UnknownNameError, match=r"unknown task 'games/xorr'.*games/xor"):
        find_task("games/xorr")
    with pytest.raises(UnknownNameError, match=r"unknown family of tasks 'game'. Did you mean games"):
        find_task("game/xor")
    with pytest.raises(UnknownNameError, match=r"unknown task 'xor'"):
        find_task("xor")


def spec_on(task: str, kind: str = "discrete") -> Spec:
    return replace(toy_spec(kind), task=task)


def test_a_family_may_use_the_settings_of_another() -> None:
    """SMAX takes what is published for SMAC, MOMA-PPO's teams what is for MuJoCo."""
    method = find_method("cfcql")
    assert preset_of(method, spec_on("smax/3m")) == Preset("smac", method.presets["smac"])
    assert preset_of(method, spec_on("moma/x", "continuous")) == Preset(
        "mamujoco", method.presets["mamujoco"]
    )
    assert preset_of(method, spec_on("smax/3m"), "recurrent").name == "smac-recurrent"
    assert preset_of(method, spec_on("smac/3m"), "smac-authors").settings == method.presets["smac-authors"]
    with pytest.raises(UnknownNameError, match="smac-recurent"):
        preset_of(method, spec_on("smac/3m"), "smac-recurent")


def test_own_families_take_the_preset_of_the_benchmark_with_their_actions() -> None:
    method = find_method("icq")
    assert preset_of(method, spec_on("mine/a", "continuous")).name == "mamujoco"
    assert preset_of(method, spec_on("mine/a", "discrete")).name == "smac"
    assert preset_of(method, spec_on("", "continuous")).name == "defaults"
    assert preset_of(method, spec_on("mine/a", "continuous"), "defaults").settings == {}
    assert preset_of(method, spec_on("mine/a", "continuous")).borrowed
    for own in (
        "mamujoco/a",
        "moma/reacher-2x1first_0",
        "gmamujoco/a",
        "",
    ):  # its own, or one that the family names
        assert not preset_of(method, spec_on(own, "continuous")).borrowed


@pytest.mark.parametrize("name", ["icq", "cfcql"])
def test_python_and_the_command_line_start_from_the_same_settings(name: str) -> None:
    """A dataset's spec names its task, so that ``make`` finds the preset that ``train`` takes."""
    toy = toy_dataset("continuous")
    names = ("obs", "state", "action", "reward", "terminal", "truncated", "starts")
    arrays = {array: getattr(toy, array) for array in names}
    shape = replace(toy.spec, task="")
    data = Dataset.create(shape, **arrays, card=Card(task="mamujoco/hopper-3x1"))
    learner = marlzoo.make(name, data.spec)
    method = find_method(name)
    assert learner.preset == "mamujoco"
    assert learner.config == method.config_class(**method.presets["mamujoco"])
    assert learner.config != method.config_class()
    assert "mamujoco" in repr(learner)
