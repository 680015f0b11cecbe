"""Statistics of a dataset (returns, lengths, ends, ranges, coverage, modes) as text, JSON, plot and HTML page."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.console import console, counted, visible
from marlzoo.data import diagnostics as measures
from marlzoo.data.arrays import pieces
from marlzoo.data.dataset import Dataset
from marlzoo.data.diagnostics import Coverage, Dependence, Modes
from marlzoo.data.probes import PROBED, Probes
from marlzoo.data.probes import probes as probed
from marlzoo.errors import ConfigError, MissingExtraError
from marlzoo.system.files import write_figure, write_text_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EDGE = 1.0 - 1e-6  # an action entry beyond it counts as lying on the bound of the box


@dataclass(frozen=True)
class Ranges:
    """Smallest, mean, standard deviation and largest of each entry, ``[agent][dimension]``, over transitions.

    An agent has as many dimensions as are its own; those that only fill the array up are left out.
    """

    low: list[list[float]]
    mean: list[list[float]]
    std: list[list[float]]
    high: list[list[float]]


@dataclass(frozen=True)
class Inspection:
    """A dataset in numbers.

    What the plain ones mean: a wide spread of returns gives methods that weigh, filter or condition on returns
    (OMIGA, ICQ, MADT) something to choose from; on a narrow one they come out as behavior cloning. Short lengths
    with terminal ends say that failing ends an episode: values then depend on the terminal flags, and time limits
    or cuts that are read as terminal ones (``timeout_is_terminal``) lower them. Action entries on the bound of the
    box have no finite density under a squashed Gaussian (methods with likelihoods: BC, OMIGA). Discrete actions
    that are hardly ever taken are where maximization over all actions (QMIX) overestimates, and where penalties or
    thresholds (CQL, BCQ) act.

    Args:
        name: the dataset's name.
        rows: rows, final observations included.
        transitions: transitions.
        episodes: episodes.
        agents: agents.
        returns: quantiles of the episode returns, by probability.
        lengths: quantiles of the episode lengths in steps, by probability.
        terminal: episodes that ended by the task's own rule.
        truncated: episodes that the time limit ended.
        cut: episodes whose recording stopped before an end.
        state_is_obs: whether the state equals all observations end to end.
        observation: ranges per agent and observation entry.
        action: ranges per agent and action dimension; None for discrete tasks.
        action_counts: how often each agent took each action, ``[agent][action]``; None for continuous tasks.
        action_outside: entries outside [-1, 1] in the source, those clipped at reading included.
        action_at_bound: share of action entries on the bound of the box or outside it.
        coverage: how much of what agents could do together is shown.
        dependence: whether behavior factorizes over agents.
        modes: how many different things agents do in similar situations.
        hints: what to normalize, in sentences.
        card: the dataset's card.
        probes: what actions depend on beyond an agent's own observation; None where it was not asked for.
    """

    name: str
    rows: int
    transitions: int
    episodes: int
    agents: int
    returns: dict[str, float]
    lengths: dict[str, float]
    terminal: int
    truncated: int
    cut: int
    state_is_obs: bool
    observation: Ranges
    action: Ranges | None
    action_counts: list[list[int]] | None
    action_outside: int
    action_at_bound: float
    coverage: Coverage
    dependence: Dependence
    modes: Modes
    hints: list[str]
    card: dict[str, Any]
    probes: Probes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def inspect(
    dataset: Dataset, *, sample: int = measures.SAMPLE, seed: int = 0, probes: bool = False
) -> Inspection:
    """Measure a dataset. Large arrays are looked through in pieces; final rows count for nothing.

    Args:
        dataset: what to measure.
        sample: transitions that coverage, dependence and modes look at; probes at most 4000 of them.
        seed: of the sample.
        probes: whether to probe what actions depend on, which takes longer than everything else.
    """
    action = None
    counts = None
    outside = 0
    at_bound = 0.0
    if dataset.spec.discrete:
        taken = dataset.action[dataset.sources]
        size = dataset.spec.action_size
        counts = [np.bincount(column, minlength=size).tolist() for column in taken.T]
    else:
        action = _ranges(dataset, dataset.action, dataset.spec.action_sizes)
        taken = np.abs(dataset.action[dataset.sources])[:, dataset.spec.own_actions]
        outside = int((taken > 1).sum()) + dataset.card.clipped
        at_bound = float((taken >= EDGE).mean())
    observation = _ranges(dataset, dataset.obs, dataset.spec.obs_sizes)
    terminal, truncated = (int(flag.sum()) for flag in (dataset.terminal, dataset.truncated))
    return Inspection(
        name=dataset.card.title,
        rows=dataset.rows,
        transitions=dataset.transitions,
        episodes=dataset.episodes,
        agents=dataset.spec.n_agents,
        returns=_quantiles(dataset.returns),
        lengths=_quantiles(dataset.lengths),
        terminal=terminal,
        truncated=truncated,
        cut=dataset.episodes - int((dataset.terminal | dataset.truncated).sum()),
        state_is_obs=dataset.state_is_obs,
        observation=observation,
        action=action,
        action_counts=counts,
        action_outside=outside,
        action_at_bound=at_bound,
        coverage=measures.coverage(dataset, sample=sample, seed=seed),
        dependence=measures.dependence(dataset, sample=sample, seed=seed),
        modes=measures.modes(dataset, sample=sample, seed=seed),
        hints=measures.hints(
            dataset, np.concatenate(observation.mean), np.concatenate(observation.std), at_bound
        ),
        card=dataset.card.to_dict(),
        probes=probed(dataset, sample=sample, seed=seed) if probes else None,
    )


def inspection_tables(found: Inspection) -> RenderableType:
    """Tables for a terminal."""
    from rich.console import Group
    from rich.table import Table

    head = Table(title=visible(found.name), show_header=False)
    card = found.card
    lines: dict[str, Any] = {
        "transitions": f"{found.transitions:,} in {counted(found.episodes, 'episode')} ({found.rows:,} rows)",
        "return": f"{card['mean_return']:.2f} ± {card['std_return']:.2f}",
        "ends": f"{found.terminal:,} terminal, {found.truncated:,} time limit, {found.cut:,} cut",
        "state": "equals the observations" if found.state_is_obs else "separate",
        "actions": "discrete"
        if found.action is None
        else f"{found.action_outside:,} entries outside [-1, 1], {found.action_at_bound:.2%} at the bound",
        "engine": card["engine"],
        "options": ", ".join(f"{k} {v}" for k, v in card["options"].items()),
        "license": card["license"],
        "content hash": card["content_hash"],
        "notes": "\n".join(card["notes"]),
    }
    for name, text in lines.items():
        if text:
            head.add_row(name, visible(text))
    spread = Table("", *(f"{float(p):.0%}" for p in found.returns), title="Quantiles over episodes")
    spread.add_row("return", *(f"{value:.2f}" for value in found.returns.values()))
    spread.add_row("length", *(f"{value:.0f}" for value in found.lengths.values()))
    tables = [head, spread, _structure(found)]
    if found.probes is not None:
        tables.append(_probe_table(found.probes))
    if found.action is not None:
        tables.append(_range_table("Actions", found.action))
    elif found.action_counts is not None:
        counts = Table("agent", *map(str, range(len(found.action_counts[0]))), title="How often taken")
        for agent, row in enumerate(found.action_counts):
            counts.add_row(str(agent), *(f"{count:,}" for count in row))
        tables.append(counts)
    tables.append(_range_table("Observations", found.observation))
    return Group(*tables)


def _structure(found: Inspection) -> Any:
    """Coverage, dependence, modes and hints as a table of two columns."""
    from rich.table import Table

    table = Table(title="What methods meet", show_header=False)
    coverage = found.coverage
    dependence = found.dependence
    modes = found.modes
    table.add_row(
        "distinct (state, joint action)", f"{coverage.distinct:.2%} of all transitions (joint SACo)"
    )
    if coverage.distinct_actions is not None:
        table.add_row("joint actions that occur", f"{coverage.distinct_actions:.2%} of those that could")
    for name, share in (
        ("recombined actions near data", coverage.recombined),
        ("random joint actions near data", coverage.uniform),
    ):
        if share is not None:
            table.add_row(name, f"{share:.1%} (sample of {coverage.sample:,} transitions)")
    table.add_row(
        "dependence between agents",
        f"{dependence.given_observations:.4f} nats given observations, 95 % interval {dependence.low:.4f} to "
        f"{dependence.high:.4f}; {dependence.unconditional:.4f} without them (sample of {dependence.sample:,})\n"
        f"{dependence.verdict}",
    )
    for agent, share in enumerate(modes.two_modes or ()):
        table.add_row(
            f"agent {agent}: two modes", f"in {share:.1%} of neighborhoods (sample of {modes.sample:,})"
        )
    for agent, number in enumerate(modes.effective_actions or ()):
        table.add_row(f"agent {agent}: actions per situation", f"{number:.2f} (sample of {modes.sample:,})")
    for hint in found.hints:
        table.add_row("hint", visible(hint))
    return table


def _probe_table(found: Probes) -> Any:
    """The probes, one row each."""
    from rich.table import Table

    title = f"What actions depend on (sample of {found.sample:,} transitions, {found.permutations} swaps)"
    table = Table("probe", "nats", "by chance", "p", "verdict, each agent", title=title)
    for name in PROBED:
        probe = getattr(found, name)
        numbers = ["", "", ""]
        text = probe.verdict
        if probe.estimate is not None:
            numbers = [f"{probe.estimate:.4f}", f"{probe.null:.4f}", f"{probe.p_value:.3f}"]
            each = zip(found.agents, probe.each, probe.p_each, strict=True)
            text += "".join(f"\nagent {agent}: {gain:.4f} (p {p:.3f})" for agent, gain, p in each)
        table.add_row(name, *numbers, text)
    return table


def write_html(dataset: Dataset, found: Inspection, path: str | os.PathLike[str]) -> None:
    """Write tables and plots as one page that needs no other file and no network.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    image = io.BytesIO()
    _figure(dataset).savefig(image, format="png", dpi=120, metadata={"Software": None})
    screen = console(record=True, file=io.StringIO(), width=120)
    screen.print(inspection_tables(found))
    picture = base64.b64encode(image.getvalue()).decode()
    name = html.escape(visible(found.name)).replace("{", "{{").replace("}", "}}")
    frame = _PAGE.replace("@picture@", picture).replace("@name@", name)
    write_text_atomic(path, screen.export_html(inline_styles=True, code_format=frame))


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@name@</title>
<style>body {{ margin: 2em; font-family: sans-serif }} pre {{ line-height: 1.15 }} img {{ max-width: 100% }}</style>
</head><body><h1>@name@</h1>
<img alt="returns, lengths, actions and observations" src="data:image/png;base64,@picture@">
<pre style="font-family: monospace">{code}</pre></body></html>
"""


def plot_dataset(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Draw returns, lengths, actions and observation ranges into an image file, whose suffix says the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: the file's name ends in no format known to it.
        OutputError: the file cannot be written.
    """
    figure = _figure(dataset)
    formats = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats and not Path(path).is_dir():
        raise ConfigError(f"{os.fspath(path)}: not an image file; end its name in .png, .pdf or .svg")
    write_figure(path, figure, metadata={"Software": None} if Path(path).suffix == ".png" else None)


def _figure(dataset: Dataset) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "plotting a dataset") from error
    figure = Figure(figsize=(10, 7), layout="constrained")
    (returns, lengths), (actions, observations) = figure.subplots(2, 2)
    figure.suptitle(
        visible(f"{dataset.card.title}: {dataset.transitions:,} transitions, {dataset.episodes:,} episodes"),
        parse_math=False,
    )
    bins = min(50, 5 + dataset.episodes // 4)
    returns.hist(dataset.returns, bins=bins)
    returns.set(xlabel="undiscounted return", ylabel="episodes")
    lengths.hist(dataset.lengths, bins=bins)
    lengths.set(xlabel="length in steps", ylabel="episodes")
    taken = dataset.action[dataset.sources]
    for agent in range(dataset.spec.n_agents):
        if dataset.spec.discrete:
            counts = np.bincount(taken[:, agent], minlength=dataset.spec.action_size)
            actions.step(np.arange(len(counts)), counts, where="mid", label=f"agent {agent}")
        else:
            low = min(-1.0, float(taken.min()))
            high = max(1.0, float(taken.max()))
            own = taken[:, agent, : dataset.spec.action_sizes[agent]]
            counts, edges = np.histogram(own, bins=60, range=(low, high))
            actions.stairs(counts, edges, label=f"agent {agent}")
    actions.set(xlabel="action", ylabel="entries")
    actions.legend(fontsize="small")
    found = _ranges(dataset, dataset.obs, dataset.spec.obs_sizes)
    for agent in range(dataset.spec.n_agents):
        mean = np.array(found.mean[agent])
        std = np.array(found.std[agent])
        observations.errorbar(np.arange(len(mean)), mean, std, fmt=".", capsize=2, label=f"agent {agent}")
    observations.set(xlabel="observation entry", ylabel="mean ± standard deviation")
    return figure


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    return {str(p): float(value) for p, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _ranges(dataset: Dataset, array: NDArray[Any], sizes: Sequence[int]) -> Ranges:
    """Ranges of each agent's own entries of ``array [T, N, D]`` over all rows but the final ones, in one pass."""
    shape = array.shape[1:]
    low = np.full(shape, np.inf)
    high = np.full(shape, -np.inf)
    total = np.zeros(shape)
    squares = np.zeros(shape)
    step = np.ones(dataset.rows, np.bool_)
    step[dataset.ends] = False
    shift = array[0].astype(np.float64)  # keeps the sum of squares from cancelling
    for begin, piece in pieces(array):
        kept = piece[step[begin : begin + len(piece)]]
        if not len(kept):
            continue
        low = np.minimum(low, kept.min(axis=0))
        high = np.maximum(high, kept.max(axis=0))
        centered = kept - shift
        total += centered.sum(axis=0)
        squares += np.square(centered).sum(axis=0)
    mean = total / dataset.transitions
    std = np.sqrt(np.maximum(squares / dataset.transitions - mean**2, 0.0))

    def own(values: NDArray[Any]) -> list[list[float]]:
        return [row[:size].tolist() for row, size in zip(values, sizes, strict=True)]

    return Ranges(own(low), own(mean + shift), own(std), own(high))


def _range_table(title: str, ranges: Ranges, most: int = 12) -> Any:
    from rich.table import Table

    table = Table("agent", "entry", "min", "mean", "std", "max", title=title)
    for agent, low in enumerate(ranges.low):
        for entry in range(min(len(low), most)):
            values = (side[agent][entry] for side in (ranges.low, ranges.mean, ranges.std, ranges.high))
            table.add_row(str(agent), str(entry), *(f"{value:.3f}" for value in values))
        if len(low) > most:
            table.add_row(str(agent), f"... {len(low) - most} more in --json", "", "", "", "")
    return table
