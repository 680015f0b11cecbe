"""The catalog, and downloads from a local hub that stalls, truncates, lies about length, serves a wrong file."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import marlzoo.data.download as module
from marlzoo.cli import main
from marlzoo.data.card import Card
from marlzoo.data.catalog import HUB, Entry, find_entry, published, scores
from marlzoo.data.download import (
    checksums_path,
    download,
    downloads_home,
    recorded_checksum,
    verify_downloads,
)
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.load import load_dataset
from marlzoo.data.names import dataset_path, is_name
from marlzoo.data.readers import Reader
from marlzoo.errors import ConfigError, DataError, MissingExtraError, OutputError, UnknownNameError
from marlzoo.families import task_names, task_spec
from marlzoo.system import http as _fetch
from marlzoo.system.files import sealed
from tests import test_format_d4rl
from tests.data_samples import author_arrays, sample, write_h5
from tests.format_files import same

NAME = "toy/point/omiga/expert"


def test_the_catalog() -> None:
    entries = published()
    assert len(entries) > 90
    for name, entry in entries.items():
        assert is_name(name)
        assert entry.action_kind in ("continuous", "discrete")
        assert entry.n_agents is not None
        assert entry.n_agents >= 2
        assert (entry.license != "") == (entry.hub != "" or entry.name.split("/")[2] == "d4rl")
    hopper = find_entry("mamujoco/hopper-3x1/omiga/expert")
    assert (hopper.n_agents, hopper.obs_size, hopper.episodes) == (3, 14, 1481)
    assert hopper.mean_return == 2452.0164
    assert hopper.address.endswith(f"{HUB}/blob/main/prior_work/omiga/mamujoco/3hopper.zip")
    assert "cloud.tsinghua.edu.cn" in hopper.where()
    assert "no public address" in find_entry("smacv2/terran_5_vs_5/comadice/medium").where()
    with pytest.raises(UnknownNameError, match="Did you mean mamujoco/hopper-3x1/omiga/expert"):
        find_entry("mamujoco/hopper-3x1/omiga/experts")


@pytest.mark.parametrize("name", ["published.csv", "scores.csv"])
def test_no_comma_of_a_note_is_a_column(name: str) -> None:
    lines = list(csv.reader((resources.files("marlzoo.data.catalog") / name).read_text("utf-8").splitlines()))
    assert {len(line) for line in lines} == {len(lines[0])}


def test_every_card_names_its_simulator_with_the_version_or_says_that_none_is_stated() -> None:
    without = [e.name for e in published().values() if not re.search(r"\d|versions? not stated", e.engine)]
    assert not without


def test_catalogd_sizes_are_those_of_a_task() -> None:
    """With the package's flavor where the MAPPO one does not fit, or a variant of the task's observations."""
    names, unmatched = set(task_names()), set()
    for name, entry in published().items():
        task = name.rsplit("/", 2)[0]
        variants = [each for each in names if each == task or each.startswith(f"{task}-")]
        specs = [task_spec(each) for each in variants]
        if task.startswith("smac/"):
            specs += [task_spec(each, flavor="original") for each in variants]
        sizes = [(spec.n_agents, spec.obs_size, spec.action_kind) for spec in specs]
        if sizes and (entry.n_agents, entry.obs_size, entry.action_kind) not in sizes:
            unmatched.add(name.rpartition("/")[0])
    assert unmatched == {"mamujoco/halfcheetah-2x3/og-marl"}  # 13 entries, whose composition is not published


def test_cards_carry_published_scores(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    name = "mamujoco/hopper-3x1/omiga/medium-replay"
    found = {(s.method, s.metric): s for s in scores(name) if s.reference == "arXiv:2410.01954"}
    assert found["OMIGA", "episode_return"].mean == 774.18
    assert found["OMIGA", "episode_return"].seeds == 5
    assert scores("toy/point/omiga/expert") == []
    every = [score for entry in published() for score in scores(entry)]
    assert len(every) > 1500  # none belongs to a dataset that the catalog does not have
    assert {score.metric for score in every} == {"episode_return", "normalized_score", "win_rate_percent"}
    assert all(score.mean is not None and score.table for score in every)
    assert main(["data", "card", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == ["published"]
    card = shown["published"]
    assert (card["mean_return"], card["size"], card["license"]) == (746.4236, "599 MB", "Apache-2.0 (hub)")
    assert "none is published" in card["sha256"]
    assert "huggingface.co" in card["where"]
    assert len(card["scores"]) == len(scores(name))
    assert main(["data", "card", name]) == 0
    out = capsys.readouterr().out
    assert "published scores: episode return" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out  # addresses and references are copied
    assert len([line for line in out.splitlines() if "arXiv:" in line]) == len(scores(name))
    assert main(["data", "card", "smac/3m/og-marl/good"]) == 0  # its references are sentences
    out = capsys.readouterr().out
    assert "…" not in out
    for score in scores("smac/3m/og-marl/good"):
        assert f"{score.mean}" in out
    assert main(["data", "card", "toy/point/omiga/expert"]) != 0
    assert "there is no such dataset" in capsys.readouterr().err


class Hub(ThreadingHTTPServer):
    """A hub on this machine; ``mood`` says how it misbehaves, ``requests`` what was asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.mood, self.requests = data, "", list[tuple[str, str]]()
        self.checksum = True
        self.release = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub, data = self.server, self.server.data
        wanted = "" if hub.mood == "no ranges" else self.headers.get("Range", "")
        hub.requests.append((self.command, wanted))
        begin = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        etag = hashlib.sha256(data).hexdigest() if hub.checksum else "abc"
        served = data[::-1] if hub.mood == "wrong file" else data
        part = served[begin:]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        stated = len(part) + {"too long": 1000, "too short": -1000}.get(hub.mood, 0)
        self.send_header("Content-Length", str(stated))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if hub.mood:
            self.close_connection = True
        if hub.mood in ("stall", "truncate"):
            part = part[: 1000 - begin]
        self.wfile.write(part)
        self.wfile.flush()
        if hub.mood == "stall":
            hub.release.wait(30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_h5(tmp_path / "expert.hdf5", author_arrays())


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Entry:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    known = find_entry("mamujoco/hopper-3x1/omiga/expert")
    toy = replace(known, name=NAME, n_agents=2, obs_size=3, mean_return=None, hub="toy/expert.hdf5")
    monkeypatch.setattr(module, "find_entry", lambda name: toy)
    return toy


@pytest.fixture
def hub(data: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="needs huggingface-hub: pip install 'marlzoo[hub]'")
    monkeypatch.setattr(_fetch, "TIMEOUT", 0.3)
    monkeypatch.setattr(_fetch, "PAUSE", 0)
    server = Hub(data.read_bytes())
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_verified_converted_and_recorded(hub: Hub, data: Path) -> None:
    assert download(NAME) == dataset_path(NAME)
    assert same(load_dataset(NAME), read_omiga(data))
    assert load_dataset(NAME).card.name == NAME
    checksum = hashlib.sha256(hub.data).hexdigest()
    assert json.loads(checksums_path().read_text())["checksums"] == {"toy/expert.hdf5": checksum}
    hub.requests.clear()
    download(NAME)  # nothing is fetched twice
    assert "GET" not in {method for method, _ in hub.requests}


def refused(match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        download(NAME)
    assert "\n" not in str(caught.value)
    assert not dataset_path(NAME).exists()
    assert not checksums_path().exists()


@pytest.mark.parametrize(("mood", "arrived"), [("stall", 1000), ("truncate", 1000), ("too long", None)])
def test_broken_downloads_are_refused_and_gone_on_from(
    hub: Hub, data: Path, mood: str, arrived: int | None
) -> None:
    hub.mood, size = mood, len(hub.data)
    count, whole = (arrived, size) if arrived else (size, size + 1000)
    refused(
        rf"could not be fetched .*; {count} of {whole} bytes have arrived\). It needs the network \(599 MB\); the "
        "same command resumes where this one stopped.*--from FILE"
    )
    hub.mood = ""
    hub.release.set()
    hub.requests.clear()
    download(NAME)
    assert same(load_dataset(NAME), read_omiga(data))
    gets = [wanted for method, wanted in hub.requests if method == "GET"]
    assert gets == ([f"bytes={arrived}-"] if arrived else [])  # what was there is not fetched again
    assert [file.name for file in (downloads_home() / "toy").iterdir()] == ["expert.hdf5"]


def test_less_than_the_truth_is_announced(hub: Hub, data: Path) -> None:
    hub.mood = "too short"
    refused("its SHA-256 is .*, the hub's one is")  # of the announced part of the file
    hub.mood = ""
    download(NAME)
    assert same(load_dataset(NAME), read_omiga(data))


def test_a_server_that_cannot_go_on_begins_anew(hub: Hub, data: Path) -> None:
    hub.mood = "truncate"
    refused("1000 of ")
    hub.mood = "no ranges"
    download(NAME)
    assert same(load_dataset(NAME), read_omiga(data))


def test_the_wrong_file_is_refused_by_the_hubs_checksum(hub: Hub, data: Path) -> None:
    hub.mood = "wrong file"
    refused("its SHA-256 is .*, the hub's one is .*; fetch it again")
    hub.mood = ""
    download(NAME)
    assert same(load_dataset(NAME), read_omiga(data))


def test_without_the_hubs_checksum_the_first_download_counts(hub: Hub, data: Path, tmp_path: Path) -> None:
    hub.checksum = False
    download(NAME)
    before = dataset_path(NAME).read_bytes()
    shutil.rmtree(downloads_home() / "toy")
    hub.data = write_h5(tmp_path / "other.hdf5", author_arrays(seed=1)).read_bytes()
    with pytest.raises(DataError, match="the earlier one is"):
        download(NAME)
    assert dataset_path(NAME).read_bytes() == before


def test_a_file_that_is_no_dataset_is_not_recorded(hub: Hub) -> None:
    hub.data = b"<html>please log in</html>"
    refused("is not an HDF5 file")


def test_a_wrong_file_that_no_checksum_tells_is_not_kept(hub: Hub, data: Path) -> None:
    hub.checksum, right = False, hub.data
    hub.data = b"<html>please log in</html>".ljust(len(right))
    refused("is not an HDF5 file")
    hub.data = right  # of the same size
    download(NAME)
    assert same(load_dataset(NAME), read_omiga(data))


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"expert\.hdf5: it has .* GB are free there; .* MARLZOO_HOME"):
        download(NAME)
    assert {method for method, _ in hub.requests} == {"HEAD"}


def test_offline_it_says_what_it_needs(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r'-m pip install "huggingface-hub[<>]'):
        download(NAME)
    monkeypatch.undo()


def test_no_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(r"It needs the network .* fetch https://huggingface\.co/.* or https://cloud\.tsinghua.* by hand")


def test_files_fetched_by_hand(entry: Entry, data: Path, tmp_path: Path) -> None:
    assert download(NAME, from_file=data) == dataset_path(NAME)
    assert same(load_dataset(NAME), read_omiga(data))
    write_h5(data, author_arrays(seed=1))
    with pytest.raises(DataError, match=r"the earlier one is .*; use the right file, or delete "):
        download(NAME, from_file=data)
    with pytest.raises(DataError, match="no such file"):
        download(NAME, from_file=tmp_path / "missing")
    checksums_path().write_text("[")
    with pytest.raises(ConfigError, match="repair or remove it"):
        download(NAME, from_file=data)


def test_another_dataset_is_refused_or_warned_about(
    entry: Entry, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, n_agents=3))
    with pytest.raises(DataError, match="it is not toy/point/omiga/expert: agents 2 instead of 3"):
        download(NAME, from_file=data)
    assert not dataset_path(NAME).exists()
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, mean_return=1e4))
    with pytest.warns(UserWarning, match="published for toy/point/omiga/expert is 1e"):
        download(NAME, from_file=data)


def test_a_file_of_one_robot_becomes_the_team_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    name = "moma/hopper-3x1_0/d4rl/medium"
    robot = test_format_d4rl.arrays("hopper", (3, 4), "tl")
    with pytest.raises(DataError, match=r"gym_mujoco_v2/hopper_medium-v2\.hdf5\) and run: .* --from FILE"):
        download(name)
    download(name, from_file=write_h5(tmp_path / "hopper_medium-v2.hdf5", robot))
    found = load_dataset(name)
    assert found.card.name == name
    assert found.spec.n_agents == 3
    with pytest.raises(DataError, match=r"it is not .*, but moma/hopper-3x1_0/d4rl/medium"):
        download("moma/hopper-3x1_0/d4rl/expert", from_file=tmp_path / "hopper_medium-v2.hdf5")


def test_another_quality_is_refused(
    entry: Entry, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mean = float(read_omiga(data).returns.mean())
    sibling = replace(entry, name="toy/point/omiga/medium", mean_return=mean * 1.001, std_return=None)
    monkeypatch.setattr(
        module, "find_entry", lambda name: replace(entry, mean_return=10 * mean, std_return=0)
    )
    monkeypatch.setattr(module, "published", lambda: {sibling.name: sibling})
    with pytest.raises(DataError, match="is that of toy/point/omiga/medium, not of toy/point/omiga/expert"):
        download(NAME, from_file=data)
    card = Card("toy/point", "omiga", "medium")
    for change in (
        {},
        {"quality": "expert", "source": "marlzoo", "recipe": {"seed": 0}},
        {"task": "toy/line"},
    ):
        write_omiga(sample(card=replace(card, **change)), tmp_path / "own.hdf5")
        with pytest.raises(
            DataError, match=r"it is not toy/point/omiga/expert, but toy/.*; fetch the right file"
        ):
            download(NAME, from_file=tmp_path / "own.hdf5")
    assert not dataset_path(NAME).exists()
    assert not checksums_path().exists()
    write_omiga(sample(card=replace(card, quality="Expert")), tmp_path / "own.hdf5")
    with pytest.warns(UserWarning, match="published for"):
        download(NAME, from_file=tmp_path / "own.hdf5")


def test_datasets_that_are_not_on_the_hub(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, hub=""))
    with pytest.raises(DataError, match=r"is not on the hub. Fetch it by hand .* --from FILE"):
        download(NAME)


def test_several_processes_record_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    read = module._recorded

    def slowly() -> dict[str, str]:
        found = read()
        time.sleep(0.01)  # long enough for others to read the same
        return found

    monkeypatch.setattr(module, "_recorded", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: module._record(f"file-{k}", f"{k:064x}"), range(24)))
    assert read() == {f"file-{k}": f"{k:064x}" for k in range(24)}


def test_damaged_records_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    module._record("file", "0" * 64)
    text = checksums_path().read_bytes()
    for place in range(len(text)):
        checksums_path().write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        with pytest.raises(ConfigError, match="repair or remove it"):
            module._recorded()
    checksums_path().write_text('{"older": "' + "1" * 64 + '"}')  # as written before there was a hash
    module._record("file", "0" * 64)
    assert module._recorded() == {"older": "1" * 64, "file": "0" * 64}


def recorded() -> dict[str, str]:
    found: dict[str, str] = json.loads(checksums_path().read_text())["checksums"]
    return found


def test_downloads_stand_beside_the_datasets(entry: Entry, tmp_path: Path) -> None:
    assert downloads_home() == tmp_path / "home" / "downloads"
    assert dataset_path(NAME).is_relative_to(tmp_path / "home" / "datasets")


def test_a_file_of_another_name_has_a_record_of_its_own(entry: Entry, data: Path) -> None:
    checksum = hashlib.sha256(data.read_bytes()).hexdigest()
    other = data.rename(data.with_name("renamed.hdf5"))
    download(NAME, from_file=other)
    assert recorded() == {f"{NAME}:renamed.hdf5": checksum}
    assert recorded_checksum(entry) == ""
    download(NAME, from_file=other.rename(data))
    assert recorded() == {f"{NAME}:renamed.hdf5": checksum, "toy/expert.hdf5": checksum}
    assert recorded_checksum(entry) == checksum
    assert recorded_checksum(replace(entry, hub="")) == ""


def test_a_folder_has_no_checksum(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder"):
        download(NAME, from_file=tmp_path / "folder")


def test_the_published_checksum_is_that_of_the_hubs_file(
    hub: Hub, entry: Entry, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, sha256="0" * 64))
    refused(
        f"its SHA-256 is .*, the published one is {'0' * 64}; it is damaged or another file; fetch it again"
    )
    download(NAME, from_file=data)  # by hand it may come in another form


def test_a_file_that_a_checksum_vouches_for_is_kept(
    hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, right = downloads_home() / "toy" / "expert.hdf5", hub.data
    hub.data = b"<html>please log in</html>"
    refused("is not an HDF5 file")  # the hub's checksum says that it is what the hub has
    assert fetched.read_bytes() == hub.data
    hub.data, hub.checksum = right, False
    download(NAME)
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, n_agents=3))
    with pytest.raises(DataError, match="agents 2 instead of 3"):
        download(NAME)
    assert fetched.read_bytes() == right  # as the first download's checksum says


def test_what_a_reader_is_told_about_a_file_of_several_datasets() -> None:
    def told(name: str, read: Callable[..., Any]) -> dict[str, Any]:
        entry = replace(find_entry("mamujoco/hopper-3x1/omiga/expert"), name=name)
        return module._reading(entry, Reader("any", lambda path: True, read))

    def uid(path: str, uid: str) -> None: ...
    def sizes(path: str, obs_sizes: str, horizon: int) -> None: ...
    def team(path: str, robot: str, team: str) -> None: ...

    assert told("moma/ant-t4x2_0t/d4rl/medium", lambda path: None) == {}
    assert told("moma/ant-t4x2_0t/d4rl/medium", uid) == {"uid": "medium"}
    assert told("moma/ant-t4x2_0t/d4rl/medium", sizes) == {"obs_sizes": (15, 4, 4, 4), "horizon": 1000}
    assert told("mamujoco/hopper-3x1/omiga/expert", sizes) == {}  # agents of one size
    assert told("toy/point/omiga/expert", sizes) == {}
    assert told("moma/hopper-3x1_0/d4rl/medium", team) == {"robot": "hopper", "team": "3x1_0"}


def test_a_hub_without_a_size_and_a_file_of_another_size(hub: Hub, data: Path) -> None:
    right, hub.data = hub.data, b""
    refused("the hub does not say how large it is")
    hub.data = right
    left = downloads_home() / "toy" / "expert.hdf5"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(right[:-10])
    download(NAME)
    assert left.read_bytes() == right


def test_downloads_are_verified_against_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    assert list(verify_downloads()) == []
    downloads_home().mkdir()
    for name in ("fine", "damaged", "gone"):
        (downloads_home() / name).write_text(name)
        module._record(name, hashlib.sha256(name.encode()).hexdigest())
    (downloads_home() / "damaged").write_text("damagec")
    (downloads_home() / "gone").unlink()
    found = {path.name: fault for path, fault in verify_downloads()}
    assert list(found) == ["checksums.json", "damaged", "fine"]
    assert (found["checksums.json"], found["fine"]) == ("", "")
    assert "that of the download" in found["damaged"]
    assert found["damaged"].endswith("delete it and fetch it again")
    checksums_path().write_text(json.dumps(sealed({"checksums": {}, "more": {}})))
    ((path, fault),) = verify_downloads()
    assert path == checksums_path()
    assert fault.endswith("is not a JSON object of texts; repair or remove it")


def test_each_part_of_the_name_and_of_the_shape_is_compared(
    entry: Entry, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "find_entry", lambda name: replace(entry, obs_size=4))
    with pytest.raises(DataError, match="observation entries 3 instead of 4; fetch"):
        download(NAME, from_file=data)
    monkeypatch.setattr(module, "find_entry", lambda name: entry)
    own = tmp_path / "own.hdf5"
    write_omiga(sample(card=Card("toy/line", "omiga", "expert")), own)
    with pytest.raises(DataError, match="it is not toy/point/omiga/expert, but toy/line/omiga/expert"):
        download(NAME, from_file=own)


def test_published_returns_agree_within_two_percent_of_their_spread(
    entry: Entry, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = float(read_omiga(data).returns.mean())
    spread = 100 * max(abs(mean), 1.0)
    near = replace(entry, mean_return=mean + 0.019 * spread, std_return=spread)
    monkeypatch.setattr(module, "find_entry", lambda name: near)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        download(NAME, from_file=data)
    far = replace(entry, mean_return=mean + 0.021 * spread, std_return=spread)
    elsewhere = replace(entry, name="toy/line/omiga/medium", mean_return=mean, std_return=None)
    monkeypatch.setattr(module, "find_entry", lambda name: far)
    monkeypatch.setattr(module, "published", lambda: {elsewhere.name: elsewhere})
    with pytest.warns(UserWarning, match="published for toy/point/omiga/expert is"):
        download(NAME, from_file=data)  # another task's equal return says nothing
