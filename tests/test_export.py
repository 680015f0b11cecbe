"""``marlzoo export``: files that repeat the policy, and refusals where they would not."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.cli import main
from marlzoo.deployment import export as exporting
from marlzoo.deployment.step import example_inputs, next_inputs
from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.errors import ConfigError, ExportError, SpecError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import GivenRandom
from marlzoo.training.checkpoint import save
from tests.full_disk import full_disk
from tests.test_deployment import inputs
from tests.toys import toy_spec

# Between them: every kind of policy, with and without masks, hidden state, last action and noise.
FORMS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "tanh-gaussian": ("omiga", "continuous", {"mixer_hidden": 4}),
    "recurrent-sampled": ("bc", "discrete", {"history": "rnn", "eval_mode": "sample"}),
    "last-action": ("qmix", "discrete", {"last_action": True}),
    "best-of-samples": ("bcq_ma", "continuous", {"mixer_hidden": 4, "eval_samples": 3}),
    "filtered": ("bcq_ma", "discrete", {"history": "rnn", "mixer_hidden": 4}),
    "deterministic": ("td3_bc", "continuous", {}),
    "gaussian": ("happo", "continuous", {}),
    "recurrent-noise": (
        "mac_flow",
        "continuous",
        {"history": "rnn", "noise": "per_episode", "sequence_length": 5},
    ),
    "attention": (
        "moma_ppo",
        "continuous",
        {"memory": 3, "memory_size": 8, "model_hidden": 8, "batch_size": 8},
    ),
}


def team(name: str) -> TeamPolicy:
    method, kind, settings = FORMS[name]
    learner = marlzoo.make(method, toy_spec(kind), hidden=8, **settings)
    return TeamPolicy(learner.policy(), learner.spec, method=method)


ONNX = ("recurrent-sampled", "recurrent-noise", "best-of-samples", "attention")  # the exporter takes seconds


@pytest.mark.parametrize("name", ONNX)
def test_onnx_repeats_the_team(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = exporting.export(team(name), tmp_path / "team.onnx")  # refused where it differs
    import onnx

    about = json.loads(onnx.load(made).metadata_props[0].value)
    assert about["method"] == FORMS[name][0]
    assert {port["name"] for port in about["inputs"]} >= {"obs"}


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ONNX])
def test_a_pytorch_program(name: str, tmp_path: Path) -> None:
    policy = team(name)
    made = exporting.export(policy, tmp_path / "team.pt2", format="torch")
    program = torch.export.load(made).module()
    obs, mask = inputs(FORMS[name][1], 4)[0]
    given = example_inputs(exporting.make_policy_step(policy), 4, torch.Generator())
    given["obs"] = torch.from_numpy(obs)
    if mask is not None:
        given["action_mask"] = torch.from_numpy(mask)
    np.testing.assert_allclose(program(given)["action"].numpy(), policy.act(obs, mask), atol=1e-6)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """PyTorch's own writer would end the whole process; ONNX files are written by Python."""
    policy = team("deterministic")
    with full_disk(tmp_path / "team.pt2"):
        exporting.export(policy, tmp_path / "team.pt2", format="torch")


def test_a_team_that_diverged_is_refused(tmp_path: Path) -> None:
    """Its actions would be those of an argmax over NaN, which an export repeats."""
    policy = team("filtered")
    with torch.no_grad():
        next(policy.policy.parameters()).fill_(torch.nan)
    with pytest.raises(ExportError, match=r"the team diverged .* choose another replica"):
        exporting.export(policy, tmp_path / "team.pt2", format="torch")
    assert not list(tmp_path.iterdir())


def test_the_exported_team_goes_on_acting(tmp_path: Path) -> None:
    """Its memory stays as it is."""
    learner = marlzoo.make("bc", toy_spec("discrete"), hidden=8, history="rnn")
    policy, twin = (TeamPolicy(learner.policy(), learner.spec, method="bc") for _ in range(2))
    for team_policy in (policy, twin):
        team_policy.act(*inputs("discrete", 4)[0])
    exporting.export(policy, tmp_path / "team.pt2", format="torch")
    np.testing.assert_array_equal(policy.act(*inputs("discrete", 4)[0]), twin.act(*inputs("discrete", 4)[0]))


@pytest.mark.parametrize("name", FORMS)
def test_one_agent_of_a_step_is_that_of_its_team(name: str) -> None:
    policy = team(name)
    whole, alone = exporting.make_policy_step(policy), exporting.make_policy_step(policy, agent=1)
    size = None if policy.spec.discrete else policy.spec.action_sizes[1]
    given = example_inputs(whole, 4, torch.Generator().manual_seed(0))
    axis = {port.name: port.shape.index(None) + 1 for port in alone.inputs}
    found = alone({name: given[name].select(axis[name], 1) for name in axis})
    expected = whole(given)
    action = expected["action"][:, 1]
    torch.testing.assert_close(found["action"], action if size is None else action[:, :size])
    for port in alone.outputs[1:]:
        torch.testing.assert_close(found[port.name], expected[port.name][:, 1])


ALONE = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = np.load(sys.argv[2])
hidden, actions = np.zeros((4, 8), np.float32), []
for obs, mask in zip(given["obs"], given["mask"]):
    inputs = {"obs": obs, "action_mask": mask, "hidden_state": hidden}
    action, hidden = session.run(["action", "next_hidden_state"], inputs)
    actions.append(action.tolist())
print(json.dumps([actions, [name for name in ("torch", "marlzoo") if name in sys.modules]]))
"""


def test_one_agent_needs_onnxruntime_and_numpy_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save(
        tmp_path / "team.npz",
        marlzoo.make("bc", toy_spec("discrete"), seeds=(3, 4), hidden=8, history="rnn"),
    )
    file = tmp_path / "agent.onnx"
    assert main(["export", str(tmp_path / "team.npz"), "--seed", "4", "--agent", "2", "-o", str(file)]) == 0
    steps = inputs("discrete", 4)
    obs, masks = (np.stack([step[k][:, 2] for step in steps]) for k in (0, 1))
    np.savez(tmp_path / "given.npz", obs=obs, mask=masks)
    command = [sys.executable, "-c", ALONE, str(file), str(tmp_path / "given.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    actions, modules = json.loads(done.stdout)
    assert modules == []
    policy = marlzoo.load(tmp_path / "team.npz", seed=4)
    assert actions == [policy.act(o, m, agent=2).tolist() for o, m in zip(obs, masks, strict=True)]


class Branching(Policy):
    """Acts by a condition on numbers, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def act(self, obs: Any, action_mask: Any = None, random: Any = None) -> Any:
        return obs[..., :2] if float(obs.sum()) > 0 else -obs[..., :2]


class Wavering(Branching):
    """Acts otherwise at every call."""

    calls = 0

    def act(self, obs: Any, action_mask: Any = None, random: Any = None) -> Any:
        self.calls += 1
        return (obs[..., :2] * self.weight / self.calls).tanh()


@pytest.mark.parametrize(
    ("policy", "text"), [(Branching(), "cannot be exported"), (Wavering(), "differs from the policy's by")]
)
def test_what_cannot_be_repeated_is_refused(policy: Policy, text: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=text):
        exporting.export(TeamPolicy(policy, toy_spec(), method="odd"), tmp_path / "p.pt2", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_lacks_is_named_with_a_way_out(tmp_path: Path) -> None:
    """Its exporter knows attention over four axes only, and says so below a page of advice."""
    pytest.importorskip("onnxscript")

    class Attending(Branching):
        def act(self, obs: Any, action_mask: Any = None, random: Any = None) -> Any:
            x = obs.unsqueeze(1)
            found = torch.nn.functional.scaled_dot_product_attention(x, x, x)
            return (found.squeeze(1)[..., :2] * self.weight).tanh()

    team = TeamPolicy(Attending(), toy_spec(), method="odd")
    with pytest.raises(
        ExportError, match=r"^odd: ONNX cannot .*: AssertionError: only 4D .*--format torch"
    ) as found:
        exporting.export(team, tmp_path / "p.onnx")
    assert "\x1b" not in str(found.value)
    assert exporting.export(team, tmp_path / "p.pt2", format="torch").exists()


def test_a_hidden_memory_is_refused(tmp_path: Path) -> None:
    class Counting(Branching):
        def reset(self, num_envs: int, ids: Any = None) -> None:
            self.calls = 0

    with pytest.raises(ExportError, match=r"odd: its policy keeps a memory.*marlzoo\.load"):
        exporting.export(TeamPolicy(Counting(), toy_spec(), method="odd"), tmp_path / "p.pt2", format="torch")


def test_wrong_requests_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"in \.pt2 for the format torch"):
        exporting.export(team("deterministic"), tmp_path / "p.onnx", format="torch")
    with pytest.raises(ConfigError, match="must be onnx or torch"):
        exporting.export(team("deterministic"), tmp_path / "p.onnx", format="jit")  # type: ignore[arg-type]
    nobody: tuple[Any, ...] = (3, -1, True, 1.0, "walker")
    for agent in nobody:
        with pytest.raises(SpecError, match="agents 0 to 2"):
            exporting.export(team("deterministic"), tmp_path / "p.pt2", format="torch", agent=agent)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="ONNX file needs the package 'onnxscript'"):
        exporting.export(team("deterministic"), tmp_path / "p.onnx")


@pytest.mark.parametrize("name", FORMS)
def test_a_step_is_what_the_policy_does(name: str) -> None:
    """Two steps of four environments: masks, memory and noise all go in where they belong."""
    step, policy = exporting.make_policy_step(team(name)), team(name).policy
    source = torch.Generator().manual_seed(0)
    given = example_inputs(step, 4, source)
    policy.reset(4)
    for _ in range(2):
        noise = [given[port.name].unsqueeze(0) for port in step.inputs if port.noise]
        mask = given["action_mask"].unsqueeze(0) if "action_mask" in given else None
        random: Any = GivenRandom(noise) if noise else None
        with torch.no_grad():
            expected = policy.act(given["obs"].unsqueeze(0), mask, random)[0]
            found = step(given)
        torch.testing.assert_close(found["action"], expected)
        assert bool(noise) == policy.stochastic
        if mask is not None:
            assert not mask.all()
            assert example_inputs(step, 500, source)["action_mask"].any(-1).all()
        for memory, value in policy.state().items():
            torch.testing.assert_close(found[f"next_{memory}"], value[0])
        given = next_inputs(step, found, source)


def test_ports_of_a_team_and_of_one_agent_of_another_size() -> None:
    spec = replace(toy_spec("discrete"), obs_sizes=(5, 3, 4), action_sizes=(4, 2, 3))
    learner = marlzoo.make("bc", spec, hidden=8, history="rnn", eval_mode="sample")
    policy = TeamPolicy(learner.policy(), spec, method="bc")
    whole, alone = exporting.make_policy_step(policy), exporting.make_policy_step(policy, agent=1)
    shapes = [{port.name: port.shape for port in (*step.inputs, *step.outputs)} for step in (whole, alone)]
    assert shapes[0] == {
        "obs": (None, 3, 5), "action_mask": (None, 3, 4), "hidden_state": (None, 3, 8), "noise_0": (None, 3, 4),
        "action": (None, 3), "next_hidden_state": (None, 3, 8),
    }  # fmt: skip
    assert shapes[1] == {
        "obs": (None, 3), "action_mask": (None, 2), "hidden_state": (None, 8), "noise_0": (None, 4),
        "action": (None,), "next_hidden_state": (None, 8),
    }  # fmt: skip
    given = example_inputs(whole, 4, torch.Generator().manual_seed(0))
    given["obs"][:, 1, 3:], given["action_mask"][:, 1, 2:] = 0.0, False
    mine = {name: value[:, 1] for name, value in given.items()}
    mine["obs"], mine["action_mask"] = mine["obs"][:, :3], mine["action_mask"][:, :2]
    with torch.no_grad():
        team_step, own = whole(given), alone(mine)
    assert torch.equal(own["action"], team_step["action"][:, 1])
    torch.testing.assert_close(own["next_hidden_state"], team_step["next_hidden_state"][:, 1])
    box = replace(toy_spec(), action_sizes=(2, 1, 2))
    fixed = TeamPolicy(marlzoo.make("td3_bc", box, hidden=8).policy(), box, method="td3_bc")
    assert exporting.make_policy_step(fixed, agent=1).outputs[0].shape == (None, 1)


def test_parity_is_demanded_of_every_output_at_every_step() -> None:
    policy = team("recurrent-sampled")
    step = exporting.make_policy_step(policy)
    sizes: list[int] = []
    memory: list[torch.Tensor] = []

    def spoiled(name: str, by: float, calls: int = 0) -> Any:
        """A run that is right but for one number of its last environment, after some calls."""

        def run(given: Any) -> dict[str, torch.Tensor]:
            sizes.append(len(given["obs"]))
            found = {key: value.clone() for key, value in step(given).items()}
            if len(sizes) > calls:
                found[name].view(-1)[-1] += by
            memory.extend((given["hidden_state"], found["next_hidden_state"]))
            return found

        sizes.clear()
        memory.clear()
        return run

    exporting.require_parity(step, spoiled("next_hidden_state", 5e-6), policy)
    assert sizes == [1] * 4 + [3] * 4
    for before, after in zip(memory[1:7:2], memory[2:8:2], strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)  # it goes on from what it left
    for name, by in (
        ("next_hidden_state", 2e-5),
        ("next_hidden_state", -2e-5),
        ("action", 1),
        ("action", -1),
    ):
        for calls in (0, 1, 5):
            with pytest.raises(ExportError, match=f"the exported {name} differs from the policy's by"):
                exporting.require_parity(step, spoiled(name, by, calls), policy)
    with pytest.raises(ExportError, match="by nan"):
        exporting.require_parity(step, spoiled("next_hidden_state", float("nan")), policy)


def test_a_file_says_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its usual name, in the current folder; the caller's team stays as it is, and so do the loggers."""
    monkeypatch.chdir(tmp_path)
    learner = marlzoo.make("td3_bc", toy_spec(), hidden=8)
    policy = TeamPolicy(
        learner.policy().double().train(), learner.spec, method="td3_bc", task="own/toy", seed=4, updates=7
    )
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    assert exporting.export(policy, format="torch") == Path("policy.pt2")
    with exporting._quiet():
        assert all(logger.level == logging.ERROR for logger in loggers)
    assert all(logger.level == logging.INFO for logger in loggers)
    assert policy.policy.training
    assert {each.dtype for each in policy.policy.parameters()} == {torch.float64}
    assert all(each.requires_grad for each in policy.policy.parameters())
    found = {"marlzoo.json": ""}
    torch.export.load("policy.pt2", extra_files=found)
    about = json.loads(found["marlzoo.json"])
    assert (about["method"], about["task"], about["seed"], about["updates"]) == ("td3_bc", "own/toy", 4, 7)
    assert about["execution"] == "decentralized"
    assert [port["name"] for port in about["inputs"]] == ["obs"]
    assert [port["name"] for port in about["outputs"]] == ["action"]
    step = exporting.make_policy_step(policy)
    assert not step.training
    assert not any(each.requires_grad for each in step.parameters())
    assert {each.dtype for each in step.parameters()} == {torch.float32}


def test_an_onnx_file_carries_the_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = team("deterministic")
    properties: dict[str, str] = {}
    model = SimpleNamespace(metadata_props=properties)
    saved: list[Any] = []

    def save_model(path: str, external_data: bool) -> None:
        saved.append((path, external_data, dict(properties)))

    made = SimpleNamespace(model=model, save=save_model)
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **options: made)
    about = exporting.file_metadata(policy, exporting.make_policy_step(policy))
    program: Any = None
    exporting._write_onnx(program, exporting.make_policy_step(policy), tmp_path / "p.onnx", about)
    assert saved == [(str(tmp_path / "p.onnx"), False, {"marlzoo": json.dumps(about)})]


def test_the_number_of_environments_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not the first axis, as of the noise of several samples."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.export, "export", lambda *given, **options: asked.append(options))
    policy = team("best-of-samples")
    exporting._program(policy, exporting.make_policy_step(policy))
    (open_axes,) = asked[0]["dynamic_shapes"]
    assert {name: list(axes) for name, axes in open_axes.items()} == {
        port.name: [port.shape.index(None)] for port in exporting.make_policy_step(policy).inputs
    }
    assert [1] in [list(axes) for axes in open_axes.values()]


def test_the_team_that_was_asked_for_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, **which: Any) -> TeamPolicy:
        asked.append((path, which))
        return team("gaussian")

    monkeypatch.setattr(exporting, "load", load)
    which: dict[str, Any] = {"method": "bc", "dataset": "D1", "seed": 4, "replica": 2, "best": True}
    made = exporting.export("a/run", tmp_path / "p.pt2", format="torch", agent=1, **which)
    assert asked == [("a/run", which)]
    given = example_inputs(
        exporting.make_policy_step(team("gaussian"), 1), 4, torch.Generator().manual_seed(0)
    )
    assert torch.export.load(made).module()(given)["action"].shape == (4, 1)
    for agent in (-1, 3):
        with pytest.raises(SpecError, match="agents 0 to 2"):
            exporting.make_policy_step(team("gaussian"), agent)
    shared = team("gaussian")
    shared.policy.execution = "centralized"
    with pytest.raises(SpecError, match="no agent can act alone"):
        exporting.make_policy_step(shared, 0)
    assert exporting.make_policy_step(shared).outputs[0].shape == (None, 3, 2)


@pytest.mark.parametrize("execution", ["shared_randomness", "sequential", "centralized"])
def test_agents_that_need_the_others_do_not_act_alone(execution: str) -> None:
    team = SimpleNamespace(method="m", execution=execution, spec=SimpleNamespace(n_agents=2))
    with pytest.raises(SpecError, match=f"m: its execution is {execution}, so no agent can act alone"):
        exporting.make_policy_step(team, 0)
