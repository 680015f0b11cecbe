"""The battery finds what is wrong with a method: faults in sound ones, each of which one check must notice."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from marlzoo import registry
from marlzoo.commands.skeleton import method_file
from marlzoo.errors import MarlzooError
from marlzoo.registry import Listing
from marlzoo.testing import Case, Check, battery
from marlzoo.testing.cases import updated_by_hand
from marlzoo.testing.states import assert_equal_state, assert_same_replica, assert_same_rows

NAME = "faulty"
OFFLINE = method_file(NAME)
ONLINE = (Path(__file__).parents[1] / "baselines" / "matd3.py").read_text(encoding="utf-8")
Written = Callable[[str], None]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Makes a text the one method that is registered, as ``faulty``."""

    def write(text: str) -> None:
        path = tmp_path / f"{NAME}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(NAME, path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, NAME, made)
        spec.loader.exec_module(made)

    monkeypatch.setattr(registry, "find_methods", lambda: Listing({NAME: [NAME]}, {}))
    return write


def checks(name: str, method: str = NAME) -> list[Check]:
    """A check of the battery for all forms of the method."""
    mine = [each for each in battery(method) if each.name.startswith(f"{name}-")]
    assert mine, name
    return mine


def run(checks: list[Check], folder: Path) -> None:
    for number, check in enumerate(checks):
        (folder / str(number)).mkdir()
        check(folder / str(number))


LOSS = 'loss = mean_over(error) + self.hyperparameter("penalty") * mean_over(out.square())  # [R]'
RETURN = 'return {"policy/loss": loss.detach(), **self.step(policy=loss)}'
CONTINUOUS = "return SquashedPolicy(self.actor, used=self.action_dimensions)\n"
DISCRETE = "return CategoricalPolicy(self.actor)\n"
ACT = "\n    def act(self, obs, action_mask=None, random=None):\n        "
OWN = "return Own(self.actor, used=self.action_dimensions)\n\n\nclass Own(SquashedPolicy):"
PRESETS = OFFLINE[OFFLINE.index("    presets: ClassVar") : OFFLINE.index("        self.actor = MLP")]
COUNT = "self.count = getattr(self, 'count', 0) + 1\n        "
# Check, old text, new text.
FAULTS = {
    "a metric of all replicas": (
        "learns_acts_and_resumes", RETURN, RETURN.replace("loss.detach()", "loss.detach().mean()")
    ),
    "a metric with a gradient": ("learns_acts_and_resumes", RETURN, RETURN.replace(".detach()", "")),
    "an infinite metric": (
        "learns_acts_and_resumes", RETURN, RETURN.replace("loss.detach()", "loss.detach() / 0.0")
    ),
    "no metrics": ("learns_acts_and_resumes", RETURN, "self.step(policy=loss)\n        return {}"),
    "an unused parameter": (
        "learns_acts_and_resumes", "        if spec.discrete:\n            self.fields",
        "        self.spare = MLP(self.init, (2, 2))\n        if spec.discrete:\n            self.fields",
    ),
    "a replica that does not learn": (
        "learns_acts_and_resumes", RETURN,
        RETURN.replace("policy=loss)", "policy=loss * torch.tensor([1.0, 0.0][: len(loss)]))"),
    ),
    "a counter that is not saved": (
        "learns_acts_and_resumes", LOSS, f"{COUNT}{LOSS.partition('  #')[0].replace('= ', '= self.count * (', 1)})"
    ),
    "actions beyond the box": (
        "learns_acts_and_resumes", CONTINUOUS,
        f"return Loose(self.actor, used=self.action_dimensions)\n\n\nclass Loose(SquashedPolicy):{ACT}"
        "return 9 * super().act(obs, action_mask, random)\n",
    ),
    "illegal actions": (
        "learns_acts_and_resumes", f"{DISCRETE}        {CONTINUOUS}",
        f"return Loose(self.actor)\n        {CONTINUOUS}\n\nclass Loose(CategoricalPolicy):"
        f"{ACT}return super().act(obs, torch.ones_like(action_mask), random)\n",
    ),
    "numbers in padding": ("learns_acts_and_resumes", CONTINUOUS, "return SquashedPolicy(self.actor)\n"),
    "a policy with more than its parameters": (
        "learns_acts_and_resumes", CONTINUOUS,
        f"{OWN.replace('used', 'sigma=torch.tensor(1 / (1 + self.seeds[0])), used')}{ACT}"
        "return super().act(obs, action_mask, None) * self.sigma\n",
    ),
    "replicas that share a loss": (
        "lockstep_equals_single_runs", LOSS, f"{LOSS}\n        loss = loss * loss.detach().mean()"
    ),
    "parameters drawn for all replicas": (
        "lockstep_equals_single_runs", "        self.add_optimizer",
        "        torch.nn.init.constant_(next(self.actor.parameters()), 0.1 * self.replicas)\n"
        "        self.add_optimizer",
    ),
    "one value of alpha for all replicas": (
        "lockstep_equals_single_runs", 'self.hyperparameter("alpha")', "self.config.alpha"
    ),
    "a setting that counts where the first replica has one": (
        "lockstep_equals_single_runs", 'self.hyperparameter("penalty")',
        '(self.hyperparameter("penalty") if self.config.penalty else 0.0)',
    ),
    "one step size for all replicas": (
        "lockstep_equals_single_runs", RETURN,
        RETURN.replace("policy=loss)", 'policy=loss + self.hyperparameter("lr").mean() * mean_over(out))'),
    ),
    "NaN that spreads": (
        "nan_stays_in_its_replica", LOSS, f"{LOSS}\n        loss = loss * (1.0 + 0.0 * error.detach().sum())"
    ),
    "a neighbor's NaN that counts": (
        "nan_stays_in_its_replica", LOSS, f"{LOSS}\n        loss = loss * (1.0 + loss.detach()[0].nan_to_num())"
    ),
    "NaN that is hidden": (
        "nan_stays_in_its_replica", "with_agent_id(batch.obs)", "with_agent_id(batch.obs.nan_to_num())"
    ),
    "a memory that a new episode keeps": (
        "new_episodes_forget_the_last", CONTINUOUS,
        f"{OWN}\n    past = 0.0\n{ACT}"
        "self.past = self.past + obs.mean((-2, -1), keepdim=True)\n"
        "        return super().act(obs + self.past, action_mask, random)\n",
    ),
    "a memory that any new episode clears": (
        "new_episodes_forget_the_last", CONTINUOUS,
        f"{OWN}\n    past = 0.0\n{ACT}"
        "self.past = self.past + obs.mean((-2, -1), keepdim=True)\n"
        "        return super().act(obs + self.past, action_mask, random)\n\n"
        "    def reset(self, num_envs, ids=None):\n        self.past = 0.0\n",
    ),
    "a policy that sees its neighbors": (
        "evaluation_does_not_depend_on_neighbors", CONTINUOUS,
        f"{OWN}{ACT}"
        "return super().act(obs - 0.5 * obs.mean(0, keepdim=True), action_mask, random)\n",
    ),
    "a policy that numbers its calls": (
        "acts_as_an_exported_step", CONTINUOUS,
        f"{OWN}\n    calls = [0]\n{ACT}self.calls[0] += 1\n        "
        "return super().act(obs, action_mask, random) / self.calls[0]\n",
    ),
    "an update that waits for the device": (
        "update_is_one_graph", RETURN, f"if loss.sum().item() < 0.0:\n            loss = 0.5 * loss\n        {RETURN}"
    ),
    "no text": ("documented", OFFLINE[: OFFLINE.index("from __future__")], '"""Short."""\n\n'),
    "a setting without a comment": ("documented", "  # weight of the squared output, which keeps it small", ""),
    "a class without a text": (
        "documented", '    """Regression for continuous and discrete actions; see the module\'s text."""\n', ""
    ),
    "a preset of unknown settings": ("presets_are_valid", '"mpe": {}', '"mpe": {"hide": 3}'),
    "a preset that one kind cannot have": (
        "presets_are_valid", PRESETS,
        PRESETS.replace('"mpe": {}', '"mpe": {"penalty": 0.5}').replace(
            "h = self",
            "self.config_class(hidden=1 - 2 * (spec.discrete and self.config.penalty == 0.5))\n        h = self",
        ),
    ),
}  # fmt: skip
STEP = "norms = self.step(critic=critic_loss)"
ONLINE_FAULTS = {
    "replicas that share a loss": (
        "online_lockstep_equals_single_runs", STEP,
        f"critic_loss = critic_loss * critic_loss.detach().mean()\n        {STEP}",
    ),
    "one step size for all replicas": (
        "online_lockstep_equals_single_runs", STEP,
        f'critic_loss = critic_loss + self.hyperparameter("lr").mean() * q.mean((1, 2))\n        {STEP}',
    ),
    "NaN that spreads": (
        "online_nan_stays_in_its_replica", STEP,
        f"critic_loss = critic_loss * (1.0 + 0.0 * critic_loss.detach().sum())\n        {STEP}"
    ),
    "a neighbor's NaN that counts": (
        "online_nan_stays_in_its_replica", STEP,
        f"critic_loss = critic_loss * (1.0 + critic_loss.detach()[1].nan_to_num())\n        {STEP}",
    ),
    "NaN that marks a neighbor": (
        "online_nan_stays_in_its_replica", "    def policy(self)",
        "    def finite(self):\n        found = super().finite()\n        found[0] &= found.all()\n"
        "        return found\n\n    def policy(self)",
    ),
    "NaN that is hidden": (
        "online_nan_stays_in_its_replica", "    def policy(self)",
        "    def finite(self):\n        return torch.ones(self.replicas, dtype=torch.bool)\n\n    def policy(self)",
    ),
    "a counter that is not saved": (
        "online_resumes_exactly", STEP,
        f"{COUNT}critic_loss = critic_loss + self.count * q.mean((1, 2))\n        {STEP}",
    ),
    "an unused parameter": (
        "learns_and_acts", "        self.target_actor = self.make",
        "        self.spare = TeamActor(self.init, spec, h, own=True)\n        self.target_actor = self.make",
    ),
}  # fmt: skip


def broken(text: str, old: str, new: str) -> str:
    if "alpha" in old:  # a setting of which each replica may have its own
        text = text.replace("penalty", "alpha")
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(written: Written, tmp_path: Path, fault: str) -> None:
    check, old, new = FAULTS[fault]
    written(broken(OFFLINE, old, new))
    mine = checks(check)
    with pytest.raises((AssertionError, MarlzooError)):
        run(mine, tmp_path)


@pytest.mark.parametrize("fault", ONLINE_FAULTS)
def test_a_fault_of_an_online_method_is_found(written: Written, tmp_path: Path, fault: str) -> None:
    check, old, new = ONLINE_FAULTS[fault]
    written(broken(ONLINE, old, new))
    mine = checks(check)
    with pytest.raises(AssertionError):
        run(mine, tmp_path)


@pytest.mark.parametrize("text", [OFFLINE, OFFLINE.replace("penalty", "alpha")])
def test_without_a_fault_all_checks_pass(written: Written, tmp_path: Path, text: str) -> None:
    written(text)
    mine = battery(NAME)
    plain = [check.name for check in mine if check.name.startswith("learns_acts_and_resumes")]
    assert [name.partition("-")[2] for name in plain] == [
        "faulty-continuous",
        f"faulty-continuous-{'alpha' if 'alpha' in text else 'penalty'}=0.0",
        "faulty-discrete",
    ]
    run(mine, tmp_path)


def test_a_sound_memory_passes(written: Written, tmp_path: Path) -> None:
    """What a copy saw is added up, until its episode begins anew."""
    memory = (
        f"{OWN}\n    past = torch.zeros(())\n{ACT}"
        "self.past = self.past + obs.mean((-2, -1), keepdim=True)\n"
        "        return super().act(obs + self.past, action_mask, random)\n\n"
        "    def reset(self, num_envs, ids=None):\n"
        "        if ids is None:\n            self.past = torch.zeros(())\n"
        "        else:\n            self.past[ids if ids.dtype == torch.bool else (slice(None), ids)] = 0.0\n"
    )
    written(broken(OFFLINE, CONTINUOUS, memory))
    run(checks("new_episodes_forget_the_last"), tmp_path)


def test_a_sound_online_method_passes(written: Written, tmp_path: Path) -> None:
    written(ONLINE)
    run(battery(NAME), tmp_path)


def test_recurrent_policies_are_exported_steps_too(tmp_path: Path) -> None:
    run(checks("acts_as_an_exported_step", "iddpg_bc"), tmp_path)


def test_a_task_of_the_wrong_kind_must_be_refused(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(ONLINE)
    (check,) = checks("wrong_action_kind_is_one_clear_error")
    check(tmp_path)
    monkeypatch.setattr(sys.modules["marlzoo.testing.battery"], "make", lambda *given, **named: None)
    with pytest.raises(AssertionError, match="a task with discrete actions was taken"):
        check(tmp_path)


def test_what_a_case_is_given_goes_before_the_sizes() -> None:
    case = Case("bc", "continuous", {"hidden": 8, "eval_mode": "sample"})
    learner: Any = case.learner((3, 4), hidden=4)
    assert (learner.config.hidden, learner.seeds, learner.dtype) == (4, [3, 4], torch.float64)
    plain: Any = case.learner()
    assert plain.config.hidden == 8
    assert case.learner(dtype=torch.float32).dtype == torch.float32
    assert case.dataset(seed=5).card.quality == "seed5"
    assert len(case.dataset(episodes=7).lengths) == 7


def test_updates_by_hand_are_prepared_and_counted() -> None:
    case = Case("sql", "continuous")
    learner = case.learner()
    metrics = updated_by_hand(learner, case.dataset(), 2)
    assert metrics["q/loss"].shape == (1,)
    assert learner.updates == 2
    spread = case.dataset().returns.max() - case.dataset().returns.min()
    assert float(learner.nets.reward_scale) == pytest.approx(1000 / float(spread))


def test_states_that_differ_are_not_equal() -> None:
    case = Case("bc", "discrete")
    one, same, other = (case.learner(seeds) for seeds in ((0, 1), (0, 1), (0, 2)))
    assert_equal_state(one, same)
    assert_same_rows(one, other, [0])
    assert_same_replica(one, 1, case.learner((1,)), rtol=0)
    for wrong in (
        lambda: assert_equal_state(one, other),
        lambda: assert_same_rows(one, other, [1]),
        lambda: assert_same_replica(one, 1, case.learner((2,)), rtol=1e-6),
    ):
        with pytest.raises(AssertionError):
            wrong()
    with torch.no_grad():  # a thousandth, of the last parameter alone
        list(same.parameters())[-1].add_(1e-3)
    with pytest.raises(AssertionError):
        assert_same_rows(one, same, [0, 1])
