"""What a dataset holds: returns, lengths, ends, ranges of observations and actions; as text, JSON and plot."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.dataset import Dataset
from marlzoo.data.validation import pieces
from marlzoo.errors import ConfigError, MissingExtraError
from marlzoo.files import atomic_write

if TYPE_CHECKING:
    from rich.console import RenderableType

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EDGE = 1.0 - 1e-6  # an action entry beyond it counts as lying on the bound of the box


@dataclass(frozen=True)
class Ranges:
    """Smallest, mean, standard deviation and largest of each entry, ``[agent][dimension]``, over transitions."""

    low: list[list[float]]
    mean: list[list[float]]
    std: list[list[float]]
    high: list[list[float]]


@dataclass(frozen=True)
class Inspection:
    """A dataset in numbers.

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
        card: the dataset's card.
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
    card: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def inspect(dataset: Dataset) -> Inspection:
    """Measure a dataset. Large arrays are looked through in pieces; final rows count for nothing."""
    action, counts, outside, at_bound = None, None, 0, 0.0
    if dataset.spec.discrete:
        taken = dataset.action[dataset.sources]
        size = dataset.spec.action_size
        counts = [np.bincount(column, minlength=size).tolist() for column in taken.T]
    else:
        action = _ranges(dataset, dataset.action)
        taken = np.abs(dataset.action[dataset.sources])
        outside = int((taken > 1).sum()) + dataset.card.clipped
        at_bound = float((taken >= EDGE).mean())
    terminal, truncated = (int(flag.sum()) for flag in (dataset.terminal, dataset.truncated))
    return Inspection(
        name=dataset.card.name,
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
        observation=_ranges(dataset, dataset.obs),
        action=action,
        action_counts=counts,
        action_outside=outside,
        action_at_bound=at_bound,
        card=dataset.card.to_dict(),
    )


def render(found: Inspection) -> RenderableType:
    """Tables for a terminal."""
    from rich.console import Group
    from rich.table import Table

    head = Table(title=found.name, show_header=False)
    card = found.card
    lines: dict[str, Any] = {
        "transitions": f"{found.transitions:,} in {found.episodes:,} episodes ({found.rows:,} rows)",
        "return": f"{card['return_mean']:.2f} ± {card['return_std']:.2f}",
        "ends": f"{found.terminal:,} terminal, {found.truncated:,} time limit, {found.cut:,} cut",
        "state": "equals the observations" if found.state_is_obs else "separate",
        "actions": "discrete"
        if found.action is None
        else f"{found.action_outside:,} entries outside [-1, 1], {found.action_at_bound:.2%} at the bound",
        "engine": card["engine"],
        "options": ", ".join(f"{k} {v}" for k, v in card["options"].items()),
        "licence": card["licence"],
        "content hash": card["content_hash"],
        "notes": "\n".join(card["notes"]),
    }
    for name, text in lines.items():
        if text:
            head.add_row(name, str(text))
    spread = Table("", *(f"{float(p):.0%}" for p in found.returns), title="Quantiles over episodes")
    spread.add_row("return", *(f"{value:.2f}" for value in found.returns.values()))
    spread.add_row("length", *(f"{value:.0f}" for value in found.lengths.values()))
    tables = [head, spread]
    if found.action is not None:
        tables.append(_range_table("Actions", found.action))
    elif found.action_counts is not None:
        counts = Table("agent", *map(str, range(len(found.action_counts[0]))), title="How often taken")
        for agent, row in enumerate(found.action_counts):
            counts.add_row(str(agent), *(f"{count:,}" for count in row))
        tables.append(counts)
    tables.append(_range_table("Observations", found.observation))
    return Group(*tables)


def plot(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Draw returns, lengths, actions and observation ranges into an image file, whose suffix says the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: the file's name ends in no format known to it.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "plotting a dataset") from error
    figure = Figure(figsize=(10, 7), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats and not Path(path).is_dir():
        raise ConfigError(f"{os.fspath(path)}: not an image file; end its name in .png, .pdf or .svg")
    (returns, lengths), (actions, observations) = figure.subplots(2, 2)
    figure.suptitle(
        f"{dataset.card.name}: {dataset.transitions:,} transitions, {dataset.episodes:,} episodes"
    )
    returns.hist(dataset.returns, bins=50)
    returns.set(xlabel="undiscounted return", ylabel="episodes")
    lengths.hist(dataset.lengths, bins=50)
    lengths.set(xlabel="length in steps", ylabel="episodes")
    taken = dataset.action[dataset.sources]
    for agent in range(dataset.spec.n_agents):
        if dataset.spec.discrete:
            counts = np.bincount(taken[:, agent], minlength=dataset.spec.action_size)
            actions.step(np.arange(len(counts)), counts, where="mid", label=f"agent {agent}")
        else:
            low, high = min(-1.0, float(taken.min())), max(1.0, float(taken.max()))
            counts, edges = np.histogram(taken[:, agent], bins=60, range=(low, high))
            actions.stairs(counts, edges, label=f"agent {agent}")
    actions.set(xlabel="action", ylabel="entries")
    actions.legend(fontsize="small")
    found = _ranges(dataset, dataset.obs)
    for agent in range(dataset.spec.n_agents):
        mean, std = np.array(found.mean[agent]), np.array(found.std[agent])
        observations.errorbar(np.arange(len(mean)), mean, std, fmt=".", capsize=2, label=f"agent {agent}")
    observations.set(xlabel="observation entry", ylabel="mean ± standard deviation")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None} if temporary.suffix == ".png" else None)


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    return {str(p): float(value) for p, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _ranges(dataset: Dataset, array: NDArray[Any]) -> Ranges:
    """Ranges of ``array [T, N, D]`` over all rows but the final ones, in one pass."""
    shape = array.shape[1:]
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    total, squares = np.zeros(shape), np.zeros(shape)
    step = np.ones(dataset.rows, np.bool_)
    step[dataset.ends] = False
    shift = array[0].astype(np.float64)  # keeps the sum of squares from cancelling
    for begin, piece in pieces(array):
        kept = piece[step[begin : begin + len(piece)]]
        if not len(kept):
            continue
        low, high = np.minimum(low, kept.min(axis=0)), np.maximum(high, kept.max(axis=0))
        centred = kept - shift
        total += centred.sum(axis=0)
        squares += np.square(centred).sum(axis=0)
    mean = total / dataset.transitions
    std = np.sqrt(np.maximum(squares / dataset.transitions - mean**2, 0.0))
    return Ranges(low.tolist(), (mean + shift).tolist(), std.tolist(), high.tolist())


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
