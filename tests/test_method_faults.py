"""Mistakes in a method of one's own: each ends in one error that names rule, line and remedy."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo import plugins
from marlzoo.errors import MarlzooError, MethodError, PluginError
from marlzoo.testing import battery
from marlzoo.testing.toys import toy_dataset
from marlzoo.training import compilation
from marlzoo.training.cuda_graph import CapturedStep
from marlzoo.training.trainer import make_sampler
from tests.test_capture import stand_in
from tests.test_registry_faults import declare

PAGE = Path(__file__).parent.parent / "docs" / "own_method.md"
EXAMPLE = re.findall(r"```python\n(\"\"\"Mine: .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
LOSS = "critic_loss = (q.sum(-1) - y).square().mean(1)"
METRIC = '"critic/loss": critic_loss.detach()'
POLICY = "return SquashedPolicy(self.actor, used=self.action_dimensions)"
CONFIG = "@dataclass(frozen=True)\nclass MineConfig(Config)"

Write = Callable[[Mapping[str, str]], None]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are traced as for the compiler, and run as they are."""
    monkeypatch.setattr(compilation, "compiled", partial(compilation.compiled, backend="eager"))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes the page's example, changed in places, the method ``mine`` of an installed package."""
    package = tmp_path / "faulty_zoo"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    declare(monkeypatch, "faulty", "faulty_zoo", plugins.METHODS)
    for name in ("faulty_zoo", "faulty_zoo.mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def written(changes: Mapping[str, str]) -> None:
        text = EXAMPLE
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (package / "mine.py").write_text(text, encoding="utf-8")

    return written


def train(replicas: int = 2, updates: int = 2, **options: Any) -> None:
    data = toy_dataset("continuous")
    learner = marlzoo.make("mine", data.spec, seeds=range(replicas), hidden=8)  # type: ignore[arg-type]
    marlzoo.train(learner, data, updates=updates, show_progress=False, **options)


def without(part: str) -> str:
    """The example's function of that name."""
    return re.findall(rf"    def {part}\(.*?(?=\n    def |\Z)", EXAMPLE, re.DOTALL)[0]


# What is changed, and what the error says; update() begins in line 50.
IN_UPDATE = [
    (
        {LOSS: LOSS.replace("mean(1)", "mean()")},
        r"loss .* for 'critic' is a tensor \[\]; it must be \[2\].*e 70\)",
    ),
    ({LOSS: LOSS.removesuffix(".mean(1)")}, r"'critic' is a tensor \[2, 128\]; it must be \[2\], one per"),
    ({LOSS: LOSS + ".detach()"}, r"'critic' depends on no parameter; make it without \.detach\(\)"),
    (
        {"policy=policy_loss": "policy=critic_loss"},
        r"'policy' does not depend on all parameters.*, line 70\)",
    ),
    (
        {"policy=policy_loss": "polcy=policy_loss"},
        r"unknown optimizer 'polcy'. Did you mean policy\?.*, line 70\)",
    ),
    ({"y = batch.reward ": "y = batch.rewards "}, r"'rewards'. Did you mean reward or .*mine\.py, line 59\)"),
    (
        {'"reward", ': ""},
        r"reads batch\.reward, which .* add 'reward' to fields = \('obs', 'action'.*, line 59\)",
    ),
    (
        {"# 1. Critic": 'batch.noise["z"]'},
        r"batch\.noise\['z'\], but noise\(\) declares nothing; add it.*, line 55",
    ),
    (
        {'"bc_weight") *': '"bc_wieght") *'},
        r"unknown float setting 'bc_wieght'. Did you mean bc_weight\?.*, line 68",
    ),
    ({'"bc_weight") *': '"hidden") *'}, r"'hidden'.*of other types are read as self\.config\.NAME"),
    (
        {"self.target_q(next_obs": "self.old_q(next_obs"},
        r"update\(\) failed with AttributeError.*old_q.*, line 58\)",
    ),
]
AFTER_UPDATE = [
    (
        {METRIC: '"critic/loss": 0.5'},
        r"metric 'critic/loss' is 0\.5, a Python float; it must be a tensor \[2\].*e 50",
    ),
    (
        {METRIC: METRIC + ".mean()"},
        r"metric 'critic/loss' is a tensor \[\]; it must be a tensor \[2\], one",
    ),
    (
        {METRIC: METRIC.removesuffix(".detach()")},
        r"metric 'critic/loss' keeps its gradient, .* return it with \.detach\(\) \(.*mine\.py, line 50\)",
    ),
    ({"        return {\n": "        found = {\n"}, r"update returned None; it must return its metrics"),
]


def test_the_pages_example_passes_the_battery_that_the_page_recommends(write: Write, tmp_path: Path) -> None:
    write({})
    shown = ("documented", "learns_acts_and_resumes", "acts_as_an_exported_step", "update_is_one_graph")
    checks = {check.name.partition("-")[0]: check for check in battery("mine")}
    for name in shown:
        checks[name](tmp_path)


@pytest.mark.parametrize(("changes", "said"), [*IN_UPDATE, *AFTER_UPDATE])
def test_a_wrong_update_is_told_by_its_line(write: Write, changes: Mapping[str, str], said: str) -> None:
    write(changes)
    with pytest.raises(MethodError, match=f"^mine: .*{said}"):
        train()


def test_a_loss_that_only_one_replica_hides_is_refused_for_one(write: Write) -> None:
    """A sum over the batch trains without a word otherwise, with a step as large as the batch."""
    write({LOSS: LOSS.removesuffix(".mean(1)")})
    with pytest.raises(MethodError, match=r"\[1, 128\]; it must be \[1\]"):
        train(1)


@pytest.mark.parametrize(
    ("changes", "said"), [IN_UPDATE[0], IN_UPDATE[4], IN_UPDATE[5], AFTER_UPDATE[0], AFTER_UPDATE[2]]
)
def test_the_compiler_hides_no_mistake(
    write: Write, eager: None, changes: Mapping[str, str], said: str
) -> None:
    write(changes)
    with pytest.raises(MethodError, match=f"^mine: .*{said}"):
        train(compile="on")


def test_what_cannot_be_compiled_is_told_with_the_way_out(write: Write, eager: None) -> None:
    write({"norms = self": "if critic_loss.sum().item() > 1e9:\n            pass\n        norms = self"})
    train()
    with pytest.raises(MethodError, match=r'works but cannot be compiled .*\.item\(\).*compile="off"'):
        train(compile="on")


COUNTED = {'hyperparameter("bc_weight")': 'hyperparameter("bc_weight") / (1 + self.updates)'}
STEPS = {
    'hyperparameter("bc_weight")': 'hyperparameter("bc_weight") / (1 + self.steps_made("policy"))',
    METRIC: METRIC + ', "critic/steps": self.steps_made("critic").expand_as(critic_loss)',
}


def recorded_step() -> CapturedStep:
    data = toy_dataset("continuous")
    learner = marlzoo.make("mine", data.spec, seeds=[0, 1], hidden=8)
    return CapturedStep(learner, make_sampler(learner, [data]), learner.update, stand_in)


def test_a_schedule_that_a_compiled_or_recorded_update_would_not_follow_is_refused(
    write: Write, eager: None, tmp_path: Path
) -> None:
    """It would be compiled anew in every update, and be constant where the update is recorded."""
    write(COUNTED)
    train()
    said = r"^mine: update reads self\.updates, .*schedules follow self\.steps_made\(NAME\).*own_method"
    with pytest.raises(MethodError, match=said):
        train(compile="on")
    checks = {check.name.partition("-")[0]: check for check in battery("mine")}
    with pytest.raises(MethodError, match=said):
        checks["update_is_one_graph"](tmp_path)
    step = recorded_step()
    with pytest.raises(MethodError, match=r"update reads self\.updates"):
        step()
    assert step._algorithm.updates == 0  # elsewhere it can be read


OWN_COUNT = {
    "self.add_optimizer(": "self.count = 0\n        self.add_optimizer(",
    "        # 1. Critic": "        self.count += 1",
    'hyperparameter("bc_weight")': 'hyperparameter("bc_weight") / self.count',
}
COUNT_KEPT = {
    **OWN_COUNT,
    "self.add_optimizer(": 'self.register_buffer("count", torch.zeros(()))\n        self.add_optimizer(',
    METRIC: METRIC + ', "critic/count": self.count.expand_as(critic_loss).clone()',
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (OWN_COUNT, r"self\.count"),
        (
            {**OWN_COUNT, "        # 1. Critic": "        self.q.count = self.count = self.count + 1"},
            r"self\.count and self\.q\.count",
        ),
        (
            {
                "self.add_optimizer(": "self.counts = [0]\n        self.add_optimizer(",
                "        # 1. Critic": "        self.counts[0] += 1",
                'hyperparameter("bc_weight")': 'hyperparameter("bc_weight") / self.counts[0]',
            },
            "something",
        ),
    ],
)
def test_a_number_that_would_be_compiled_anew_in_every_update_is_refused(
    write: Write, eager: None, changes: Mapping[str, str], name: str
) -> None:
    write(changes)
    train()
    said = rf"^mine: .* compiled 9 times, because {name} in it changes .* self\.register_buffer .*mine\.py, line "
    with pytest.raises(MethodError, match=said):
        train(updates=20, compile="on")


@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="PyTorch 2.12 compiles no update that sets a buffer anew"
)
def test_a_number_that_is_a_tensor_is_compiled_once(
    write: Write, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "GRAPHS", 1)
    write(COUNT_KEPT)
    seen: list[float] = []
    train(
        updates=5,
        compile="on",
        log_every=1,
        on_progress=lambda _, metrics: seen.append(metrics["critic/count"][0]),
    )
    assert seen == [1, 2, 3, 4, 5]


def test_a_schedule_by_an_optimizers_steps_is_followed(write: Write, tmp_path: Path) -> None:
    write(STEPS)
    checks = {check.name.partition("-")[0]: check for check in battery("mine")}
    checks["update_is_one_graph"](tmp_path)
    step = recorded_step()
    assert [step()["critic/steps"].tolist() for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        *(
            ({without(part): ""}, PluginError, rf"mine\.py, class Mine: defines no {part}\(\)")
            for part in ("build", "update", "policy")
        ),
        ({"    config_class = MineConfig\n": ""}, PluginError, "names no config_class; write config_class = NAME"),
        ({CONFIG: "class MineConfig(Config)"}, PluginError, r"not a dataclass.*@dataclass\(frozen=True\) above"),
        ({CONFIG: CONFIG.replace("(Config)", "")}, PluginError, "MineConfig does not derive from marlzoo.Config"),
        ({"hidden: Count = 64": "hidden = 64"}, PluginError, "hidden has no type, .* write hidden: int = 64"),
        ({'actions = ("continuous",)': 'actions = ("continuous")'}, PluginError, "actions is 'continuous'; it must"),
        ({'    actions = ("continuous",)\n': ""}, PluginError, r"actions is \(\); it must be a tuple"),
        (
            {"    fields = (": '    unread = ("memory",)\n    fields = ('},
            PluginError,
            r"class Mine: unread: unknown setting 'memory'",
        ),
        ({"    fields = (": '    sampling = "rows"\n    fields = ('}, PluginError, "'rows'; choose one of 'transi"),
        ({"    fields = (": "    named = ("}, MethodError, "fields is missing; it must be a tuple"),
        ({'("obs", "action", "reward", "mask", "next_obs")': '"obs"'}, MethodError, "fields is 'obs'; it must be a"),
        ({'"reward", "mask"': '"rewards", "mask"'}, MethodError, "fields: unknown field of a batch 'rewards'"),
        ({"self.add_optimizer(": "self.add_optimiser("}, MethodError, r"build\(\) failed with Attr.*, line 48\)"),
        ({without("build"): "    def __init__(self, *_):\n        self.x = 1\n" + without("build")},
         MethodError, r"does not call super\(\)\.__init__"),
        ({POLICY: "SquashedPolicy(self.actor)"}, MethodError, r"policy\(\) returned None; it must return.*, line 81"),
        ({POLICY: "return self.actor"}, MethodError, r"policy\(\) returned MLP; it must return a marlzoo\.Policy"),
    ],
)  # fmt: skip
def test_a_wrong_class_is_told_before_the_training(
    write: Write, changes: Mapping[str, str], error: type[MarlzooError], said: str
) -> None:
    write(changes)
    with pytest.raises(error, match=said):
        train()


def test_errors_that_are_no_mistakes_of_the_method_stay_as_they_are(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"# 1. Critic": "raise MemoryError"})
    with pytest.raises(MemoryError):
        train()

    def failed(*_: object) -> None:
        raise RuntimeError("of the sampler")

    monkeypatch.setattr("marlzoo.data.sampler.Sampler.next", failed)
    with pytest.raises(RuntimeError, match=r"^of the sampler$") as caught:
        train()
    assert type(caught.value) is RuntimeError
