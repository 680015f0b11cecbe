"""Every command has a function that takes its options; docs/api.md tells which, and what is said in another way."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks.launchers import Place

import marlzoo
from marlzoo.cli import COMMANDS, data, modeling, resulting
from marlzoo.cli._help import options_of
from marlzoo.cli._options import Offline, Online
from marlzoo.cli.listing import KINDS
from marlzoo.models.settings import WorldModelConfig
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.recording.teach_options import Options as TeachOptions
from marlzoo.training.finetune_settings import FinetuneSettings

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("<!-- surface -->")[2].partition("<!-- end of surface -->")[0]
ROWS = {
    command.strip(): (
        re.findall(r"`(\w+)`", functions),
        dict(re.findall(r"((?:`\w+`,? ?)+): ([^;|]+)", other)),
    )
    for command, functions, other in re.findall(r"^\| (`.*?) \| (`.*?) \|(.*?)\|$", TABLE, re.MULTILINE)
}
# Parameters that hold several options.
HELD = {
    ("finetune", "settings"): FinetuneSettings,
    ("ope", "settings"): FQESettings,
    ("data_teach", "options"): TeachOptions,
    ("data_model", "settings"): WorldModelConfig,
    ("train_method", "place"): Place,
}
SHAPES = {
    "collect": data.CollectCommand,
    "inspect": data.InspectCommand,
    "check": data.CheckCommand,
    "convert": data.ConvertCommand,
    "download": data.DownloadCommand,
    "mix": data.MixCommand,
    "card": data.CardCommand,
    "teach": data.TeachCommand,
    "model": modeling.ModelCommand,
}


def commands() -> dict[str, set[str]]:
    """Options of every command, by the name that it has in the table."""
    found: dict[str, type | None] = {}
    for name, (module, _) in COMMANDS.items():
        if name == "data":
            found |= {f"`data {action}`": SHAPES[action] for action in data.ACTIONS}
        elif name == "train":
            found |= {"`train METHOD`, offline": Offline, "`train METHOD`, online": Online}
        elif name == "results":
            found |= {
                "`results compare`": resulting.Compare,
                "`results migrate`": resulting.Migrate,
                "`results compress`": resulting.Compress,
            }
            found |= {"`results borrow`": resulting.Borrow}
        elif name == "list":
            shape = importlib.import_module("marlzoo.cli.listing").Options
            found |= {f"`list {kind}`": shape for kind in KINDS}
        elif name == "doctor":
            found["`doctor`"] = None
        elif name != "completion":  # of no use to a program
            found[f"`{name}`"] = importlib.import_module(f"marlzoo.cli.{module}").Options
    options = {name: {o.name for o in options_of(shape)} for name, shape in found.items() if shape}
    return options | {"`doctor`": {"verify"}}


def parameters(function: str) -> set[str]:
    """Names that a function takes, those in its settings included."""
    found = set(inspect.signature(getattr(marlzoo, function)).parameters)
    for (owner, name), shape in HELD.items():
        if owner == function:
            assert name in found
            found |= {field.name for field in fields(shape)}
    return found


def test_the_table_names_every_command() -> None:
    assert ROWS.keys() == commands().keys()


@pytest.mark.parametrize("command", ROWS)
def test_every_option_is_a_parameter_or_explained(command: str) -> None:
    functions, other = ROWS[command]
    assert set(functions) <= set(marlzoo.__all__)
    options = commands()[command] - {"json"}
    taken: set[str] = set().union(*map(parameters, functions))
    explained: dict[str, Any] = {
        name: why for names, why in other.items() for name in re.findall(r"\w+", names)
    }
    assert options - taken == explained.keys()


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse(Path(marlzoo.__file__).read_text(encoding="utf-8"))
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    lines = [line for line in block.body if isinstance(line, ast.ImportFrom)]
    seen = [(str(name.asname), str(line.module)) for line in lines for name in line.names]
    assert sorted(name for name, _ in seen) == sorted(set(marlzoo.__all__) - {"__version__"})
    for name, module in seen:
        assert getattr(importlib.import_module(module), name) is getattr(marlzoo, name)
