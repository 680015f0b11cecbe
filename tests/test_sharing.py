"""Policies and datasets go to a hub with a card, come back verified, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import marlzoo
from marlzoo.cli import main
from marlzoo.data.formats.native import write_omiga
from marlzoo.errors import ConfigError, DataError, MissingExtraError, OutputError, UnknownNameError
from marlzoo.sharing.cards import repository_card
from marlzoo.sharing.hub import answers, client, require_repository
from marlzoo.sharing.manifest import FORMAT, Manifest, SharedFile
from marlzoo.system.files import sealed
from marlzoo.training.checkpoint import load_saved
from marlzoo.training.trainer import train
from tests.hub_stand_in import Hub, Repository, serving
from tests.toys import ToyEnv, toy_dataset, toy_spec

pytest.importorskip("huggingface_hub", reason="needs huggingface-hub: pip install 'marlzoo[hub]'")
REPOSITORY = "someone/teams"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("run") / "c.npz"
    learner = marlzoo.make("bc", toy_spec(), seeds=(3, 5), hidden=4, batch_size=4)
    train(
        learner, toy_dataset(), updates=2, env=ToyEnv, episodes=2, horizon=3, checkpoint=file,
        check_data=False, compile="off", task="toy/point",
    )  # fmt: skip
    return file


def newest(hub: Hub, place: str) -> dict[str, bytes]:
    return list(hub.repositories[place].commits.values())[-1]


def parts_of(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("Apache-2.0", ['license: "apache-2.0"']),
        ("", []),
        ("Apache-2.0 and none stated", ['license: "other"', 'license_name: "Apache-2.0 and none stated"']),
    ],
)
def test_licenses_have_the_hub_s_names(name: str, lines: list[str]) -> None:
    """It refuses a card with a license that it does not know."""
    shared = SharedFile("a.hdf5", 1, "0" * 64, {"name": "toy/walk/own/a"})
    card = repository_card("someone/data", Manifest("dataset").having(shared), name).splitlines()
    assert [line for line in card if line.startswith("license")] == lines


def test_data_that_are_computed_are_written_first(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "games/xor/marlzoo/D1", REPOSITORY]) == 2
    assert "marlzoo data convert games/xor/marlzoo/D1 FILE.hdf5" in capsys.readouterr().err


def test_a_policy_comes_back_as_it_was(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(checkpoint), REPOSITORY, "--license", "mit"]) == 0
    assert "/someone/teams/commit/" in capsys.readouterr().out
    files = newest(hub, f"models/{REPOSITORY}")
    assert set(files) == {"bc-toy-point.npz", "marlzoo.json", "README.md"}
    card = files["README.md"].decode()
    assert 'license: "mit"' in card
    assert "pipeline_tag: reinforcement-learning" in card
    for told in ("| method | bc |", "| seeds | 3, 5 |", "| settings | batch_size = 4, hidden = 4 |"):
        assert told in card
    (line,) = [line for line in card.splitlines() if line.startswith("| bc-toy-point.npz |")]
    means = load_saved(checkpoint).arrays["extra/eval/0/returns"].mean(-1)
    assert f"| 3, 5 | 2 | {means[0]:.6g}, {means[1]:.6g} |" in line
    assert json.loads(files["marlzoo.json"])["files"][0]["sha256"] in line
    (usage,) = card.split("```python\n")[1:]
    assert 'marlzoo.load(marlzoo.pull("someone/teams"), seed=3)' in usage

    assert main(["pull", REPOSITORY]) == 0
    pulled = Path(capsys.readouterr().out.strip())
    assert pulled == tmp_path / "home" / "hub" / "someone" / "teams" / "bc-toy-point.npz"
    assert pulled.read_bytes() == checkpoint.read_bytes()
    assert parts_of(pulled.parent) == {pulled.name}
    team, original = marlzoo.load(pulled, seed=5), marlzoo.load(checkpoint, seed=5)
    obs = np.ones((3, 5), np.float32)
    for policy in (team, original):
        policy.reset()
    np.testing.assert_array_equal(team.act(obs), original.act(obs))
    hub.requests.clear()
    assert marlzoo.pull(REPOSITORY) == pulled
    assert not any("bc-toy" in request for request in hub.requests)  # nothing is fetched twice


def test_a_dataset_comes_back_and_a_repository_holds_several(hub: Hub, tmp_path: Path) -> None:
    names = []
    for seed in (0, 1):
        file = tmp_path / f"{seed}.hdf5"
        write_omiga(toy_dataset("discrete", seed=seed), file)
        marlzoo.push(file, "someone/data", name=f"toy-{seed}.hdf5")
        names.append(f"toy-{seed}.hdf5")
    files = newest(hub, "datasets/someone/data")
    assert {*names, "marlzoo.json", "README.md"} == set(files)
    card = files["README.md"].decode()
    assert card.count("\n| transitions | ") == 2
    assert 'marlzoo.load_dataset(marlzoo.pull("someone/data", file="toy-0.hdf5"))' in card
    with pytest.raises(ConfigError, match=r"holds 2 files \(toy-0.hdf5, toy-1.hdf5\); name one with --file"):
        marlzoo.pull("someone/data")
    with pytest.raises(UnknownNameError, match=r"Did you mean toy-1\.hdf5 or toy-0\.hdf5"):
        marlzoo.pull("someone/data", "toy-3.hdf5")
    found = marlzoo.load_dataset(marlzoo.pull("someone/data", "toy-1.hdf5"))
    np.testing.assert_array_equal(found.obs, toy_dataset("discrete", seed=1).obs)
    first = list(hub.repositories["datasets/someone/data"].commits)[1]
    out = tmp_path / "out" / "first.hdf5"
    assert marlzoo.pull("someone/data", revision=first, out=out) == out  # one file was there then
    assert out.read_bytes() == (tmp_path / "0.hdf5").read_bytes()
    with pytest.raises(ConfigError, match="is there already and another file"):
        marlzoo.pull("someone/data", "toy-1.hdf5", out=out)
    assert marlzoo.pull("someone/data", "toy-1.hdf5", out=out, force=True) == out
    assert out.read_bytes() == (tmp_path / "1.hdf5").read_bytes()
    marlzoo.push(tmp_path / "1.hdf5", "someone/data", name="toy-0.hdf5")
    assert marlzoo.pull("someone/data", revision=first, out=out, force=True) == out
    assert out.read_bytes() == (tmp_path / "0.hdf5").read_bytes()  # as it was then
    folder = tmp_path / "folder.hdf5"
    folder.mkdir()
    for wrong in (tmp_path / "data.npz", folder):
        with pytest.raises(ConfigError, match=r"name a file that ends in \.hdf5"):
            marlzoo.pull("someone/data", "toy-1.hdf5", out=wrong)


def test_what_is_no_dataset_is_refused(hub: Hub, tmp_path: Path) -> None:
    state = hub.repositories[f"datasets/{REPOSITORY}"] = Repository()
    text = b"something else"
    lying = SharedFile("a.hdf5", len(text), hashlib.sha256(text).hexdigest(), {})
    state.commits["0" * 40] |= {
        "a.hdf5": text,
        "marlzoo.json": Manifest("dataset", {"a.hdf5": lying}).to_json().encode(),
    }
    refused("no dataset in marlzoo's own format; it cannot be used", tmp_path)


def test_a_full_disk_is_seen_before_anything_is_fetched(
    hub: Hub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marlzoo.push(checkpoint, REPOSITORY)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match=r"0\.0 GB are free there; free some space"):
        marlzoo.pull(REPOSITORY)
    assert parts_of(tmp_path / "home") == set()


def refused(match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match) as caught:
        marlzoo.pull(REPOSITORY)
    assert "\n" not in str(caught.value)
    assert parts_of(tmp_path / "home") == set()


def test_what_is_not_marlzoos_is_one_clear_error(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    refused("someone/teams: there is no such repository on the hub, or it is private", tmp_path)
    repository = hub.repositories[f"models/{REPOSITORY}"] = Repository()
    state = repository.commits["0" * 40]
    state["weights.bin"] = b"1"
    refused(r"is not a marlzoo repository \(it has no marlzoo.json\)", tmp_path)
    with pytest.raises(DataError, match=r"is not a marlzoo repository, and holds weights.bin"):
        marlzoo.push(checkpoint, REPOSITORY)
    file = SharedFile("a.npz", 3, "0" * 64, {})
    hostile = {
        "it is not JSON": b"{",
        "its format is 'other'": json.dumps(sealed({"format": "other"})).encode(),
        "its hash is another": Manifest("model", {"a.npz": file}).to_json().replace("a.npz", "b.npz").encode(),
        r"'../a.npz': files of a model repository have names": (
            Manifest("model", {"a": SharedFile("../a.npz", 3, "0" * 64, {})}).to_json().encode()
        ),
        "has 2000000 bytes": b" " * 2_000_000,
    }  # fmt: skip
    for match, text in hostile.items():
        state["marlzoo.json"] = text
        refused(match, tmp_path)
    with pytest.raises(ConfigError, match="name a repository as USER/NAME"):
        marlzoo.pull("../teams")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "dataset"}, "it lists no files of a model repository"),
        ({"files": [3]}, "an entry of its files is not a JSON object"),
        ({"name": "a.hdf5"}, "files of a model repository have names of"),
        ({"size": 0}, "'a.npz' has no size or no checksum"),
        ({"size": True}, "'a.npz' has no size or no checksum"),
        ({"sha256": "0" * 63}, "'a.npz' has no size or no checksum"),
        ({"about": []}, "has no name or no description"),
    ],
)
def test_a_manifest_says_all_or_nothing(change: dict[str, Any], match: str) -> None:
    entry = {"name": "a.npz", "size": 3, "sha256": "0" * 64, "about": {}} | change
    whole = {"format": FORMAT, "kind": "model", "files": [entry]} | change
    with pytest.raises(DataError, match=match):
        Manifest.from_json(json.dumps(sealed(whole)), "model")
    with pytest.raises(DataError, match="it is not a JSON object"):
        Manifest.from_json("[1]", "model")


def test_a_damaged_file_is_refused_and_leaves_nothing(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    marlzoo.push(checkpoint, REPOSITORY)
    state = newest(hub, f"models/{REPOSITORY}")
    state["bc-toy-point.npz"] = checkpoint.read_bytes()[:-1] + b"x"
    refused("bc-toy-point.npz has the SHA-256 .* damaged or was replaced by hand", tmp_path)
    other = b"cos\nsystem\n(S'true'\ntR."  # a pickle with its own checksum is no checkpoint either
    state["bc-toy-point.npz"] = other
    lying = SharedFile("bc-toy-point.npz", len(other), hashlib.sha256(other).hexdigest(), {})
    state["marlzoo.json"] = Manifest("model", {lying.name: lying}).to_json().encode()
    refused("bc-toy-point.npz: not a readable checkpoint", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="its signals cannot be sent to a thread")
def test_an_interrupted_pull_leaves_no_file_and_is_repeated(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    marlzoo.push(checkpoint, REPOSITORY)
    target = tmp_path / "home" / "hub" / "someone" / "teams" / "bc-toy-point.npz"
    hub.cut = 4000  # more than the manifest has
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background ignore
    try:
        with pytest.raises(KeyboardInterrupt):
            marlzoo.pull(REPOSITORY)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not target.exists()
    hub.cut = 0
    assert marlzoo.pull(REPOSITORY).read_bytes() == checkpoint.read_bytes()
    assert parts_of(target.parent) == {target.name}


def test_a_hub_that_refuses_or_is_not_there(
    hub: Hub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, remedy in ((401, "log in with: hf auth login"), (403, "may not do that"), (412, "meanwhile")):
        hub.refuse = status
        with pytest.raises(DataError, match=remedy):
            marlzoo.push(checkpoint, REPOSITORY)
    hub.refuse = 0
    marlzoo.push(checkpoint, REPOSITORY)
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        marlzoo.pull(REPOSITORY, out=target / "c.npz")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"could not be read: .* check the network and HF_ENDPOINT"):
        marlzoo.pull(REPOSITORY)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="huggingface-hub"):
        marlzoo.pull(REPOSITORY)


def test_text_of_others_stays_text_in_a_card(hub: Hub, checkpoint: Path) -> None:
    from marlzoo.sharing.cards import repository_card

    file = SharedFile("a.npz", 3, "0" * 64, {"method": "x|y", "task": "a\n- b: [c](d) <b>", "seeds": [1]})
    card = repository_card(REPOSITORY, Manifest("model", {"a.npz": file}), "")
    assert r"| x\|y | a - b: [c\](d) \<b> |" in card
    assert '- "a\\n- b: [c](d) <b>"' in card


def test_an_answer_of_the_hub_is_one_short_line() -> None:
    with pytest.raises(DataError) as caught, answers("x could not be read"):
        raise RuntimeError("  first " + "a" * 300 + "\n second")
    assert str(caught.value) == (
        f"x could not be read: RuntimeError: first {'a' * 194}; check the network and HF_ENDPOINT, and run the "
        "same command again"
    )
    with pytest.raises(ConfigError, match=r"^mine$"), answers("x"):
        raise ConfigError("mine")


@pytest.mark.parametrize("name", ["teams", "a/b/c", "../x/y", "a/b c"])
def test_what_is_no_repositorys_name(name: str) -> None:
    with pytest.raises(ConfigError, match="USER/NAME"):
        require_repository(name)


def test_without_the_hubs_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="needs the package 'huggingface-hub'"):
        client()
