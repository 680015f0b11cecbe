"""The cards (``README.md``) of hub repositories, made from what the files say about themselves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from marlzoo.console import markdown_cell
from marlzoo.data.card import Card
from marlzoo.errors import UnknownNameError
from marlzoo.registry import find_method
from marlzoo.sharing.manifest import Kind, Manifest, SharedFile
from marlzoo.spec import Spec
from marlzoo.training.checkpoint import EXTRA, Saved, task_of

_USE: dict[Kind, str] = {
    "model": 'import marlzoo\n\nteam = marlzoo.load(marlzoo.pull("{repository}"{file}){seed})',
    "dataset": 'import marlzoo\n\ndata = marlzoo.load_dataset(marlzoo.pull("{repository}"{file}))',
}
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "model": ("method", "task", "seeds", "updates", "mean_returns"),
    "dataset": ("name", "transitions", "episodes", "mean_return", "std_return"),
}
_REDUNDANT = {"task", "source", "quality", "notes"}  # in a dataset's name, or told below


def about_policy(saved: Saved) -> dict[str, Any]:
    """Description of a checkpoint: method, task, shape, settings, versions, last evaluation."""
    meta = saved.meta
    about = {
        "method": str(meta["method"]),
        "task": task_of(meta),
        "spec": Spec.from_dict(meta["spec"]).to_dict(),
        "seeds": saved.seeds,
        "updates": int(meta["updates"]),
        "settings": _changed(str(meta["method"]), meta["configs"]),
        "data_hashes": meta.get("data", []),
        "versions": meta.get("versions", {}),
    }
    return about | _last_evaluation(saved)


def about_dataset(spec: Spec, card: Card) -> dict[str, Any]:
    """Description of a dataset: name, shape and card."""
    return {"name": card.name, "spec": spec.to_dict(), **card.to_dict()}


def repository_card(repository: str, manifest: Manifest, license_name: str) -> str:
    """Text of ``README.md``: the files, how to use them, and their origin.

    Args:
        repository: ``USER/NAME``.
        manifest: of its files.
        license_name: as the hub calls it; empty: not stated.
    """
    files = [manifest.files[name] for name in sorted(manifest.files)]
    parts = [
        _front_matter(manifest.kind, files, license_name),
        f"# {repository.partition('/')[2]}",
        _summary(manifest.kind),
        _table(
            ["file", *_COLUMNS[manifest.kind], "size", "SHA-256"], [_line(f, manifest.kind) for f in files]
        ),
        "## Use",
        "With marlzoo and its extra `hub`; no account is needed. The file is "
        "compared with the checksum above, and nothing in it is executed.",
        f"```python\n{_use(repository, manifest.kind, files)}\n```",
        *(_details(file) for file in files),
    ]
    return "\n\n".join(parts) + "\n"


def _changed(method: str, configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings that differ from the method's defaults, a list of values where replicas differ."""
    try:
        usual = {f.name: f.default for f in fields(find_method(method).config_class)}
    except UnknownNameError:  # another package's method; loading the policy reports what is missing
        usual = {}
    found = {}
    for name in configs[0]:
        values = [config.get(name) for config in configs]
        one = values[0] if all(value == values[0] for value in values) else values
        if json.dumps(one) != json.dumps(usual.get(name)):
            found[name] = one
    return found


def _last_evaluation(saved: Saved) -> dict[str, Any]:
    last = len(saved.meta.get("evaluations", [])) - 1
    returns = saved.arrays.get(f"{EXTRA}eval/{last}/returns")
    if returns is None:
        return {}
    means = [float(f"{value:.6g}") if math.isfinite(value) else None for value in returns.mean(-1)]
    return {"mean_returns": means, "evaluation_episodes": int(returns.shape[-1])}


def _front_matter(kind: Kind, files: Sequence[SharedFile], license_name: str) -> str:
    """YAML of plain texts; a JSON string is one of YAML, too."""
    tags = ["marlzoo", "multi-agent", "offline-reinforcement-learning"]
    tags += [str(f.about[key]) for f in files for key in ("method", "task") if f.about.get(key)]
    lines = ["---", *_license(license_name)]
    if kind == "model":
        lines += ["library_name: marlzoo", "pipeline_tag: reinforcement-learning"]
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags)), "---"]
    return "\n".join(lines)


def _license(name: str) -> list[str]:
    """As the hub calls it, which refuses a card with another name: SPDX names in small letters, or ``other``."""
    known = name.lower()
    if not name:
        return []
    if re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", known):
        return [f"license: {json.dumps(known)}"]
    return ['license: "other"', f"license_name: {json.dumps(name)}"]


def _summary(kind: Kind) -> str:
    if kind == "model":
        return (
            "Teams of agents trained with offline multi-agent reinforcement learning. Each file is a checkpoint of "
            "one run; its replicas differ in their seed or settings. Returns are of the last evaluation."
        )
    return "Datasets of recorded episodes for offline multi-agent reinforcement learning."


def _line(file: SharedFile, kind: Kind) -> list[str]:
    shown = [_text(file.about.get(name, "")) for name in _COLUMNS[kind]]
    return [file.name, *shown, _size(file.size), file.sha256]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count > 1e5 else f"{count / 1e3:.1f} kB"


def _use(repository: str, kind: Kind, files: Sequence[SharedFile]) -> str:
    name = f', file="{files[0].name}"' if len(files) > 1 else ""
    seeds = files[0].about.get("seeds", [])
    seed = f", seed={seeds[0]}" if len(seeds) > 1 else ""
    return _USE[kind].format(repository=repository, file=name, seed=seed)


def _details(file: SharedFile) -> str:
    rows = [
        [name, _text(value)]
        for name, value in file.about.items()
        if value not in ("", None, [], {}) and not (name in _REDUNDANT and "name" in file.about)
    ]
    notes = "".join(f"\n- {markdown_cell(note)}" for note in file.about.get("notes", ()))
    return f"## {file.name}\n\n{_table(['what', 'value'], rows)}" + (f"\n\nNotes:\n{notes}" if notes else "")


def _text(value: Any) -> str:
    """A value in a cell: ``a = 1, b = 2`` for names with values, ``1, 2`` for lists, numbers with six digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([markdown_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
