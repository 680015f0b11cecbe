"""``marlzoo.export``: a trained team, or one agent, as a file that needs no marlzoo."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from marlzoo.deployment.loading import load
from marlzoo.deployment.step import PolicyStep, example_inputs, next_inputs
from marlzoo.deployment.team_policy import TeamPolicy, require_agent
from marlzoo.errors import ConfigError, ExportError, MissingExtraError, SpecError
from marlzoo.system.files import atomic_write
from marlzoo.version import __version__

Format = Literal["onnx", "torch"]
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-5  # largest difference of float outputs from those of the policy itself; actions must be equal
OPSET = 18
# Of the comparison: steps of an episode, and numbers of environments.
_STEPS = 4
_SIZES = (1, 3)

Tensors = Mapping[str, Tensor]
Run = Callable[[Tensors], dict[str, Tensor]]


def export(
    path: str | Path | TeamPolicy,
    out: str | Path | None = None,
    *,
    format: Format = "onnx",  # noqa: A002 - the option's name
    agent: int | None = None,
    method: str = "",
    dataset: str = "",
    seed: int | None = None,
    replica: int | None = None,
    best: bool = False,
) -> Path:
    """Write one trained team, or one of its agents, as an ONNX file or a PyTorch program.

    The file holds one step, from named inputs to named outputs, for any number of environments. Its outputs are
    compared with the policy's over a few random episodes before the file appears under its name.

    Args:
        path: a checkpoint, the folder of a run that has one, or a loaded team.
        out: the file; default: ``policy.onnx`` or ``policy.pt2`` in the current folder.
        format: ``onnx`` (extra ``export``) or ``torch`` (:func:`torch.export.load` reads it).
        agent: export this agent alone, in its own sizes; None: the team.
        method: see :func:`marlzoo.load`.
        dataset: see :func:`marlzoo.load`.
        seed: see :func:`marlzoo.load`.
        replica: see :func:`marlzoo.load`.
        best: see :func:`marlzoo.load`.

    Returns:
        The file.

    Raises:
        ConfigError: an unknown format, or a name with another ending.
        ExportError: the policy cannot be exported, or diverged, or the export does not repeat it.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        SpecError: no such agent, or a policy whose agents cannot act alone.
        OutputError: the file cannot be written.
    """
    if format not in ENDINGS:
        raise ConfigError(f"format is {format!r}; it must be onnx or torch")
    target = Path(out) if out is not None else Path(f"policy{ENDINGS[format]}")
    if target.suffix != ENDINGS[format]:
        raise ConfigError(f"{target}: end the file's name in {ENDINGS[format]} for the format {format}")
    if format == "onnx":
        _require_onnx()
    team = (
        path
        if isinstance(path, TeamPolicy)
        else load(path, method=method, dataset=dataset, seed=seed, replica=replica, best=best)
    )
    step = make_policy_step(team, agent)
    _require_finite(team, step)
    program = _program(team, step)
    with atomic_write(target) as temporary:
        if format == "torch":
            written = io.BytesIO()  # PyTorch itself does not tell a full disk from its other errors
            torch.export.save(
                program, written, extra_files={"marlzoo.json": json.dumps(file_metadata(team, step))}
            )
            temporary.write_bytes(written.getvalue())
            run = _run_torch(temporary)
        else:
            _write_onnx(program, step, temporary, file_metadata(team, step))
            run = _run_onnx(temporary)
        require_parity(step, run, team)
    return target


def make_policy_step(team: TeamPolicy, agent: int | None = None) -> PolicyStep:
    """The step of a loaded team on the CPU, or of one agent.

    Raises:
        ExportError: the policy keeps a memory that it does not give as its state.
        SpecError: no such agent, or a policy whose agents cannot act alone.
    """
    if agent is not None and team.execution != "decentralized":
        raise SpecError(f"{team.method}: its execution is {team.execution}, so no agent can act alone")
    if agent is not None:
        require_agent(team.spec, agent)
    # A copy: the caller's team keeps its device, precision and memory.
    policy = copy.deepcopy(team.policy).cpu().float()
    try:
        step = PolicyStep(policy, team.spec, agent)
    except ExportError as error:
        raise ExportError(f"{team.method}: {error}") from error
    return step.eval().requires_grad_(False)


def file_metadata(team: TeamPolicy, step: PolicyStep) -> dict[str, Any]:
    """Metadata of an exported file: its origin, inputs and outputs."""
    return {
        "marlzoo": __version__,
        "method": team.method,
        "task": team.task,
        "seed": team.seed,
        "updates": team.updates,
        "execution": team.execution,
        "spec": team.spec.to_dict(),
        "inputs": [asdict(port) for port in step.inputs],
        "outputs": [asdict(port) for port in step.outputs],
    }


def _require_finite(team: TeamPolicy, step: PolicyStep) -> None:
    """Refuse a team that diverged, whose largest logit would still be some action."""
    if not all(torch.isfinite(parameter).all() for parameter in step.parameters()):
        raise ExportError(
            f"{team.method}: the team diverged (parameters of its policy are not finite); choose another replica"
        )


@torch.no_grad()
def require_parity(step: PolicyStep, run: Run, team: TeamPolicy) -> None:
    """Compare an exported step with the policy over a few steps of random episodes.

    Raises:
        ExportError: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    for num_envs in _SIZES:
        inputs = example_inputs(step, num_envs, generator)
        for _ in range(_STEPS):
            expected = step(inputs)
            found = run(inputs)
            for name, value in expected.items():
                gap = float((found[name].to(value.dtype) - value).abs().max())
                if not gap <= (TOLERANCE if value.is_floating_point() else 0):
                    raise ExportError(
                        f"{team.method}: the exported {name} differs from the policy's by {gap:.3g}, more than "
                        f"{TOLERANCE:g}; nothing was written"
                    )
            inputs = next_inputs(step, expected, generator)


def _program(team: TeamPolicy, step: PolicyStep) -> torch.export.ExportedProgram:
    inputs = example_inputs(step, 2, torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1)
    axes = {port.name: {port.shape.index(None): batch} for port in step.inputs}
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(step, (inputs,), dynamic_shapes=({**axes},), strict=False)
    except Exception as error:  # the exporter raises many kinds for code that it cannot follow
        raise ExportError(f"{team.method}: its policy cannot be exported: {_first_line(error)}") from error


def _write_onnx(
    program: torch.export.ExportedProgram, step: PolicyStep, path: Path, about: dict[str, Any]
) -> None:
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                input_names=[port.name for port in step.inputs],
                output_names=[port.name for port in step.outputs],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"{about['method']}: ONNX cannot express its policy: {_first_line(_innermost(error))}; "
            "export it with --format torch, or use it in Python: marlzoo.load(RUN)"
        ) from error
    assert made is not None
    made.model.metadata_props["marlzoo"] = json.dumps(about)
    made.save(str(path), external_data=False)


def _run_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(dict(inputs))


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that onnxruntime does not name
        raise ExportError(f"ONNX Runtime cannot read the export: {_first_line(error)}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> dict[str, Tensor]:
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "export", "an ONNX file") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes about itself off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _innermost(error: BaseException) -> BaseException:
    """What an error was raised for in the first place; the exporter wraps it in advice for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
