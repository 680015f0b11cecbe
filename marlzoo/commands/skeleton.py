"""The files that ``marlzoo new-method`` writes: a small method that works, to be rewritten step by step."""

from __future__ import annotations

import re
from string import Template

METHOD = '''\
"""$cls: regression onto the recorded actions, each agent from its own observation.

This is a working skeleton. Put the paper here (authors, title, venue, link), its equations under its own names, and
every departure from the authors' code with the option that restores it. Agents share one network whose input
carries their one-hot number. The loss, averaged over batch and agents:

1. continuous: mean over dimensions of (tanh f(o_i) - a_i)^2
2. discrete:   -log softmax(f(o_i) over legal actions)[a_i]
3. both:       + penalty * mean f(o_i)^2

R replicas (seeds, settings, datasets) train in lockstep: tensors carry R in front, a loss is [R], and replica r must
depend on its own rows only. Inside ``update``: no loop over replicas or agents, no ``.item()``, no shape that
depends on data, and random numbers only from ``batch.noise`` (declared by a method ``noise``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Config, Count, NonNegative
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.policies import (
    CategoricalPolicy,
    Policy,
    SquashedPolicy,
    categorical_log_prob,
    mask_logits,
)
from marlzoo.objectives import action_error, mean_over
from marlzoo.spec import Spec


@dataclass(frozen=True)
class ${cls}Config(Config):
    """Settings; those that every method has (batch_size, gamma, lr, grad_clip, ...) are inherited."""

    hidden: Count = 256  # width of both hidden layers
    penalty: NonNegative = 1e-3  # weight of the squared output, which keeps it small


class ${cls}(Algorithm):
    """Regression for continuous and discrete actions; see the module's text."""

    config: ${cls}Config
    config_class = ${cls}Config
    actions = ("continuous", "discrete")
    fields: tuple[str, ...] = ("obs", "action")  # of a batch; see marlzoo.batch.Batch
    presets: ClassVar = {"mamujoco": {}, "mpe": {}, "smac": {"hidden": 64}}  # by the family of the task
    variants: ClassVar = {"continuous": ({"penalty": 0.0},)}  # forms that the battery tests as well

    def build(self, spec: Spec) -> None:
        """One network, shared by the agents, and its optimizer."""
        h = self.config.hidden
        self.actor = MLP(self.init, (spec.obs_size + spec.n_agents, h, h, spec.action_size))
        if spec.discrete:
            self.fields = (*self.fields, "action_mask")
        self.add_optimizer(policy=self.actor)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the loss and the gradient norm, each [R]."""
        out = self.actor(with_agent_id(batch.obs))  # [R, B, N, A]
        if self.spec.discrete:
            error = -categorical_log_prob(mask_logits(out, batch.action_mask), batch.action)  # [R, B, N]
        else:
            error = action_error(torch.tanh(out), batch.action, self.action_dimensions)
        loss = mean_over(error) + self.hyperparameter("penalty") * mean_over(out.square())  # [R]
        return {"policy/loss": loss.detach(), **self.step(policy=loss)}

    def policy(self) -> Policy:
        """Continuous: the squashed output. Discrete: the best legal action."""
        if self.spec.discrete:
            return CategoricalPolicy(self.actor)
        return SquashedPolicy(self.actor, used=self.action_dimensions)
'''

PYPROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "marlzoo-$dashed"
version = "0.1.0"
description = "The method $name for marlzoo."
requires-python = ">=3.11"
dependencies = ["marlzoo"]

[project.optional-dependencies]
dev = ["pytest>=8"]

# Every module of this package whose name has no leading underscore is a method, called by its file's name.
[project.entry-points."marlzoo.plugins"]
$name = "$package"

[tool.setuptools]
packages = ["$package"]
"""

INIT = '''\
"""Methods for marlzoo, found through the entry point in pyproject.toml."""
'''

TEST = '''\
"""The battery that every method of marlzoo passes; add the closed forms of your own losses beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from marlzoo.testing import Check, battery


@pytest.mark.parametrize("check", battery("$name"), ids=str)
def test_battery(check: Check, tmp_path: Path) -> None:
    check(tmp_path)
'''


def class_name(name: str) -> str:
    """``my_method`` as ``MyMethod``; a name that the skeleton imports gets ``Method`` behind it."""
    joined = "".join(part.capitalize() for part in name.split("_"))
    return f"{joined}Method" if re.search(rf"\b{joined}\b", METHOD) else joined


def method_file(name: str) -> str:
    """Text of the method's file."""
    return Template(METHOD).substitute(cls=class_name(name))


def package_name(name: str) -> str:
    """The import name of a package of its own."""
    return f"marlzoo_{name}"


def package_files(name: str) -> dict[str, str]:
    """Texts of an installable package by relative path."""
    package = package_name(name)
    pyproject = Template(PYPROJECT).substitute(name=name, package=package, dashed=name.replace("_", "-"))
    return {
        "pyproject.toml": pyproject,
        f"{package}/__init__.py": INIT,
        f"{package}/{name}.py": method_file(name),
        f"tests/test_{name}.py": Template(TEST).substitute(name=name),
    }
