"""Mixtures of datasets: whole episodes in the right shares, the same bytes every time, or one clear error."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import marlzoo.data.mix as module
from marlzoo.cli import main
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.load import load_dataset
from marlzoo.data.mix import mix, parse_parts
from marlzoo.data.names import dataset_path
from marlzoo.errors import ConfigError, DataError
from tests.data_samples import CARD, DISCRETE, SPEC, parts, sample


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def write(path: Path, quality: str, lengths: Any, seed: int, **changes: Any) -> tuple[str, Dataset]:
    card = replace(CARD, quality=quality, **changes)
    return str(path), write_omiga(sample(lengths, seed, card=card), path)


def episodes(data: Dataset) -> list[bytes]:
    ranges = zip(data.starts, data.ends, strict=True)
    names = ("obs", "action", "reward", "terminal", "truncated")
    return [b"".join(getattr(data, n)[a : b + 1].tobytes() for n in names) for a, b in ranges]


def test_shares_of_whole_episodes(home: Path) -> None:
    good, a = write(home / "good.hdf5", "good", [10] * 30, 1)
    poor, b = write(home / "poor.hdf5", "poor", [3, 7, 5] * 40, 2)
    data = load_dataset(mix([(good, 0.25), (poor, 0.75)], home / "m.hdf5"))
    of_a, of_b = set(episodes(a)), set(episodes(b))
    found = episodes(data)
    assert len(found) == len(set(found))
    assert set(found) <= of_a | of_b
    steps = [sum(int(n) for e, n in zip(found, data.lengths, strict=True) if e in of) for of in (of_a, of_b)]
    assert steps == [200, 600]  # all that is in the second, and a third as much of the first
    card = data.card
    assert card.name == "toy/point/tests/good25-poor75"
    assert card.recipe is not None
    parents = card.recipe["parents"]
    assert [p["content_hash"] for p in parents] == [a.content_hash, b.content_hash]
    assert [(p["share"], p["transitions"], p["of_transitions"]) for p in parents] == [
        (0.25, 200, 300),
        (0.75, 600, 600),
    ]
    assert card.options == CARD.options


def test_same_bytes_and_seeds(home: Path) -> None:
    good, _ = write(home / "good.hdf5", "good", [10] * 30, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [4] * 30, 2)
    half = [(good, 0.5), (poor, 0.5)]
    made = [mix(half, home / f"{k}.hdf5", transitions=100, seed=seed) for k, seed in enumerate((0, 0, 1))]
    first, again, other = (path.read_bytes() for path in made)
    assert first == again
    assert load_dataset(made[0]).content_hash != load_dataset(made[2]).content_hash
    assert first != other
    assert load_dataset(made[0]).card.quality == "good-poor"


def test_a_recording_without_bounds_gives_a_stretch(home: Path) -> None:
    good, a = write(home / "good.hdf5", "good", [40], 1)
    poor, _ = write(home / "poor.hdf5", "poor", [20], 2)
    data = load_dataset(mix([(good, 0.5), (poor, 0.5)], home / "m.hdf5"))
    assert data.lengths.tolist() == [20, 20]
    begin = int(np.flatnonzero((a.obs == data.obs[0]).all((1, 2)))[0])
    np.testing.assert_array_equal(data.obs[:21], a.obs[begin : begin + 21])
    assert not data.action[20].any()
    assert data.terminal[:21].any() == (begin == 20)


def test_discrete_tasks_and_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, quality in enumerate(("good", "poor")):
        data = sample([5, 6, 7] * 5, k, DISCRETE, card=replace(CARD, quality=quality))
        write_omiga(data, dataset_path(f"toy/point/tests/{quality}"))
    name = "toy/point/tests/good-poor"
    with pytest.raises(DataError, match=r"Make it with: (.*)") as caught:
        load_dataset(name)
    command = str(caught.value).partition("Make it with: marlzoo ")[2].split()
    assert main(command) == 0
    found = load_dataset(name)
    assert found.card.name == name
    assert found.action_mask is not None
    assert f"{found.transitions} transitions" in capsys.readouterr().out


def test_without_a_target_the_mixture_gets_a_new_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, _ = write(home / "good.hdf5", "good", [5, 6, 7] * 5, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [5, 6, 7] * 5, 2)
    assert main(["data", "mix", f"{good}:0.5", f"{poor}:0.5"]) == 0
    assert load_dataset("toy/point/tests/good-poor").card.name == "toy/point/tests/good-poor"
    with pytest.raises(ConfigError, match=r"there is a dataset toy/point/tests/good-poor; .* with --out"):
        mix([(good, 0.5), (poor, 0.5)])
    assert mix([(good, 0.25), (poor, 0.75)]) == dataset_path("toy/point/tests/good25-poor75")
    monkeypatch.setattr(module, "published", lambda: {"toy/point/tests/poor-good": None})
    with pytest.raises(ConfigError, match="there is a dataset"):
        mix([(poor, 0.5), (good, 0.5)])
    other, _ = write(home / "other.hdf5", "good", [5] * 5, 3, source="elsewhere")
    with pytest.raises(ConfigError, match="say where the mixture goes with --out"):
        mix([(poor, 0.5), (other, 0.5)])


def test_thirds_and_the_command_of_the_card(home: Path) -> None:
    """Shares may be rounded to six digits; the card's command makes the same mixture again."""
    names = [write(home / f"{k}.hdf5", f"q{k}", [5, 6, 7] * 5, k)[0] for k in range(3)]
    assert [share for _, share in parse_parts([f"{name}:0.333333" for name in names])] == [0.333333] * 3
    with pytest.raises(ConfigError, match=r"add up to 0\.99999"):
        parse_parts([f"{name}:0.33333" for name in names])
    data = load_dataset(mix([(name, 1 / 3) for name in names], home / "thirds.hdf5"))
    assert data.card.recipe is not None
    command = data.card.recipe["command"].replace("FILE", str(home / "again.hdf5"))
    assert main(command.split()[1:]) == 0
    assert load_dataset(home / "again.hdf5").content_hash == data.content_hash


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (["a"], "write NAME:SHARE"),
        (["a:0.5", "b:x"], "write NAME:SHARE"),
        (["a:0", "b:1"], "a share above 0"),
        (["a:-0.5", "b:1.5"], "a share above 0"),
        (["a:nan", "b:1"], "a share above 0"),
        (["a:0.5", "b:0.4"], "add up to 0.9"),
        (["a:0.33", "b:0.33", "c:0.33"], "add up to 0.99"),
        (["a:1"], "at least two different"),
        (["a:0.5", "a:0.5"], "at least two different"),
    ],
)
def test_wrong_shares(texts: list[str], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_parts(texts)


def test_datasets_that_do_not_fit(home: Path) -> None:
    good, _ = write(home / "good.hdf5", "good", [10] * 3, 1)
    other_task, _ = write(home / "task.hdf5", "good", [10] * 3, 2, task="toy/line")
    flavor, _ = write(home / "flavor.hdf5", "good", [10] * 3, 3, options={"gain": 0.6})
    spec = str(home / "spec.hdf5")
    write_omiga(sample([10] * 3, 4, DISCRETE, card=CARD), Path(spec))
    masks = str(home / "masks.hdf5")
    write_omiga(sample([10] * 3, 5, DISCRETE, card=CARD, action_mask=None), Path(masks))
    for pair, cause in (
        ((good, other_task), "task: toy/point != toy/line"),
        ((good, flavor), "gain: 0.5 != 0.6"),
        ((good, spec), "action_kind"),
        ((spec, masks), "masks of legal actions"),
        ((good, str(home / "none.hdf5")), "no such file"),
    ):
        with pytest.raises(DataError, match=cause):
            mix([(name, 0.5) for name in pair], home / "m.hdf5")
    copy = str(home / "copy.hdf5")
    Path(copy).write_bytes(Path(good).read_bytes())
    with pytest.raises(DataError, match="hold the same data"):
        mix([(good, 0.5), (copy, 0.5)], home / "m.hdf5")
    no_task, _ = write(home / "no-task.hdf5", "good", [10] * 3, 7, task="")
    for pair, cause in (((good, copy), "hold the same data"), ((good, other_task), "toy/point != toy/line")):
        with pytest.raises(DataError, match=cause):  # of the later parts, of which the first says nothing
            mix([(no_task, 0.5), *((name, 0.25) for name in pair)], home / "m.hdf5")
    poor, _ = write(home / "poor.hdf5", "poor", [10] * 3, 6)
    with pytest.raises(DataError, match="its share of 100 needs 50"):
        mix([(good, 0.5), (poor, 0.5)], home / "m.hdf5", transitions=100)
    with pytest.raises(ConfigError, match="end the file's name in"):
        mix([(good, 0.5), (poor, 0.5)], home / "m.npz")
    with pytest.raises(ConfigError, match="the seed must be 0 or more"):
        mix([(good, 0.5), (poor, 0.5)], home / "m.hdf5", seed=-1)
    assert not (home / "m.hdf5").exists()


def test_a_single_episode_within_its_share_is_kept_whole(home: Path) -> None:
    assert parts([4], 1, SPEC)["terminal"].any()
    good, a = write(home / "good.hdf5", "good", [4], 1)
    poor, _ = write(home / "poor.hdf5", "poor", [4] * 3, 2)
    data = load_dataset(mix([(good, 0.5), (poor, 0.5)], home / "m.hdf5"))
    assert episodes(data)[0] == episodes(a)[0]


def test_a_card_names_what_its_parts_share(home: Path) -> None:
    common: dict[str, Any] = {"engine": "toy 1", "license": "CC0", "notes": ("same",), "clipped": 2}
    good, _ = write(
        home / "good.hdf5", "good", [4] * 9, 1, **common, options={"gain": 0.5, "x_version": "1", "y": 1}
    )
    poor, _ = write(
        home / "poor.hdf5", "poor", [4] * 9, 2, **common | {"engine": "toy 2", "notes": ("same", "own")}
    )
    third, _ = write(home / "third.hdf5", "mean", [4] * 9, 3, **common | {"license": ""}, source="other")
    card = load_dataset(mix([(good, 0.5), (poor, 0.5)], home / "a.hdf5", transitions=24, seed=4)).card
    assert (card.task, card.source, card.engine, card.license) == (
        "toy/point",
        "tests",
        "toy 1, toy 2",
        "CC0",
    )
    assert card.options == {"gain": 0.5}
    assert card.clipped == 4
    assert card.notes == ("same", "own")
    assert card.recipe is not None
    assert card.recipe["command"].endswith(f"{good}:0.5 {poor}:0.5 --transitions 24 --seed 4 --out FILE")
    assert [(p["transitions"], p["episodes"], p["of_episodes"]) for p in card.recipe["parents"]] == [
        (12, 3, 9)
    ] * 2
    other = load_dataset(mix([(good, 0.5), (third, 0.5)], home / "b.hdf5")).card
    assert (other.source, other.license) == ("mix", "CC0 and none stated")
    one, _ = write(home / "one.hdf5", "good", [4] * 9, 1, options={"x_version": "1"})
    two, _ = write(home / "two.hdf5", "poor", [4] * 9, 2, options={"x_version": "2"})
    assert mix([(one, 0.5), (two, 0.5)], home / "c.hdf5").exists()  # other versions need not be other physics


def test_as_near_to_a_share_as_whole_episodes_allow(home: Path) -> None:
    """Of episodes of 10 steps, 14 are nearer to one episode and 16 to two; halfway the smaller number is taken."""
    a, _ = write(home / "a.hdf5", "a", [10] * 9, 1)
    b, _ = write(home / "b.hdf5", "b", [10] * 9, 2)
    for size, episodes_each in ((28, 1), (32, 2), (30, 1), (6, 1), (180, 9)):
        data = load_dataset(mix([(a, 0.5), (b, 0.5)], home / f"{size}.hdf5", transitions=size))
        assert data.episodes == 2 * episodes_each


def test_parts_of_equal_layout_are_drawn_apart_and_keep_their_order(home: Path) -> None:
    a, first = write(home / "a.hdf5", "a", [1, 1, 1, 30] * 9, 1)
    b, second = write(home / "b.hdf5", "b", [1, 1, 1, 30] * 9, 2)
    data = load_dataset(mix([(a, 0.5), (b, 0.5)], home / "m.hdf5", transitions=300))
    assert abs(data.transitions - 300) <= 2 * 15
    found, places = episodes(data), []
    for parent in (first, second):
        theirs = episodes(parent)
        places.append([theirs.index(e) for e in found if e in theirs])
        assert places[-1] == sorted(places[-1])
    assert sum(map(len, places)) == len(found)
    assert found[0] in episodes(first)
    assert places[0] != places[1]


def test_a_stretch_may_end_at_the_flag_of_its_recording(home: Path) -> None:
    """Four of five steps: a stretch from the first one ends where the flagged step begins."""
    good, a = write(home / "good.hdf5", "good", [5], 1)
    poor, _ = write(home / "poor.hdf5", "poor", [4] * 3, 2)
    begins = set()
    for seed in range(4):
        data = load_dataset(mix([(good, 0.5), (poor, 0.5)], home / f"{seed}.hdf5", transitions=8, seed=seed))
        begins.add(int(np.flatnonzero((a.obs == data.obs[0]).all((1, 2)))[0]))
        assert data.lengths[0] == 4
    assert begins == {0, 1}


def test_states_of_one_part_alone_are_kept(home: Path) -> None:
    good, _ = write(home / "good.hdf5", "good", [4] * 3, 1)
    values = parts([4] * 3, 2)
    state = -values["obs"].reshape(len(values["obs"]), -1)
    other = Dataset.create(SPEC, **values | {"state": state}, card=replace(CARD, quality="poor"))
    write_omiga(other, home / "poor.hdf5")
    data = load_dataset(mix([(good, 0.5), (str(home / "poor.hdf5"), 0.5)], home / "m.hdf5"))
    np.testing.assert_array_equal(data.state[:15], data.obs[:15].reshape(15, -1))
    np.testing.assert_array_equal(data.state[15:], state)


def test_order_that_is_not_known_stays_so(home: Path) -> None:
    """Methods that read sequences refuse a mixture with a part whose steps are in no order."""
    good, _ = write(home / "good.hdf5", "good", [10] * 3, 1)
    loose, _ = write(home / "loose.hdf5", "loose", [10] * 3, 2, bounds_known=False)
    half = [(good, 0.5), (loose, 0.5)]
    assert not load_dataset(mix(half, home / "m.hdf5")).card.bounds_known


def test_a_part_is_not_written_over(home: Path) -> None:
    good, a = write(home / "good.hdf5", "good", [10] * 3, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [10] * 3, 2)
    (home / "link.hdf5").symlink_to(good)
    for target in (good, home / "link.hdf5"):
        with pytest.raises(
            ConfigError, match=r"\.hdf5 is one of the datasets to mix; write .* to another file"
        ):
            mix([(good, 0.5), (poor, 0.5)], target)
    assert load_dataset(good).content_hash == a.content_hash


def test_only_the_same_mixture_is_written_over(home: Path) -> None:
    good, _ = write(home / "good.hdf5", "good", [10] * 3, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [10] * 3, 2)
    half = [(good, 0.5), (poor, 0.5)]
    target = mix(half, home / "m.hdf5")
    before = target.read_bytes()
    target.write_bytes(before + b" ")  # what follows the file's end is not read
    mix(half, target)
    assert target.read_bytes() == before, "made again"
    for other in (target, home / "text.hdf5", home / "folder.hdf5"):
        if other.stem == "text":
            other.write_text("not to be lost")
        if other.stem == "folder":
            other.mkdir()
        remedy = "remove it" if other.is_dir() else r"replace it with --force \(force=True"
        with pytest.raises(ConfigError, match=rf"{other.name}: exists already and is left .* or {remedy}"):
            mix(half, other, seed=1)
    assert target.read_bytes() == before
    assert (home / "text.hdf5").read_text() == "not to be lost"
    command = ["data", "mix", f"{good}:0.5", f"{poor}:0.5", "--seed", "1", "--out", str(target)]
    assert main(command) == 2
    assert main([*command, "--force"]) == 0
    assert load_dataset(target).card.recipe != load_dataset(mix(half, home / "n.hdf5")).card.recipe


def test_a_name_of_another_task_is_refused(home: Path) -> None:
    """What is read under that name would be refused later."""
    good, _ = write(home / "good.hdf5", "good", [10] * 3, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [10] * 3, 2)
    with pytest.raises(DataError, match="toy/line/own/both: the file is of the task toy/point"):
        mix([(good, 0.5), (poor, 0.5)], "toy/line/own/both")
    assert not dataset_path("toy/line/own/both").exists()


def test_the_command_of_the_card_keeps_spaces_together(home: Path) -> None:
    good, _ = write(home / "very good.hdf5", "good", [10] * 3, 1)
    poor, _ = write(home / "poor.hdf5", "poor", [10] * 3, 2)
    recipe = load_dataset(mix([(good, 0.5), (poor, 0.5)], home / "m.hdf5")).card.recipe
    assert recipe is not None
    assert f"{good}:0.5" in shlex.split(recipe["command"])


def test_computed_data_are_mixed_into_a_file_and_not_hidden_by_it(home: Path) -> None:
    half = [("games/xor/marlzoo/D1", 0.5), ("games/xor/marlzoo/D3", 0.5)]
    size = load_dataset("games/xor/marlzoo/D1").transitions
    data = load_dataset(mix(half, home / "m.hdf5"))
    assert data.card.name == "games/xor/marlzoo/D1-D3"
    assert data.card.recipe is not None
    hashes = [parent["content_hash"] for parent in data.card.recipe["parents"]]
    assert hashes == [load_dataset(name).content_hash for name, _ in half]
    assert [parent["transitions"] for parent in data.card.recipe["parents"]] == [size, size]
    other = mix(half, "games/xor/marlzoo/D1-D3")
    assert load_dataset("games/xor/marlzoo/D1-D3").content_hash == data.content_hash
    for target in ("games/xor/marlzoo/D1", other.with_name("D3.hdf5")):
        with pytest.raises(ConfigError, match="is one of the datasets to mix"):
            mix(half, target)
    for name, before in zip((name for name, _ in half), hashes, strict=True):
        assert load_dataset(name).content_hash == before
