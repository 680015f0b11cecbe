"""Which steps of which episodes become frames, with stand-ins for environment, team and writer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from marlzoo.deployment import rendering
from marlzoo.deployment.rendering import render
from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.errors import ConfigError, SpecError
from marlzoo.replicas import derive

SMALL = (8, 6)


class Stage:
    """Records what is drawn and written; an episode of ``length`` steps pays 0.5 each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, length: int = 5, horizon: int = 5) -> None:
        self.length = length
        self.task = "own/a"
        self.spec = SimpleNamespace(horizon=horizon, differences=lambda other: self.differences)
        self.differences: list[str] = []
        self.seeds: list[int] = []
        self.captions: list[str] = []
        self.sizes: set[tuple[int, int]] = set()
        self.written: dict[str, Any] = {}
        self.closed = 0
        self.loaded: Any = None
        self.asked: Any = None
        self.resets: list[int] = []
        self.received: list[float] = []
        monkeypatch.setattr(rendering, "make_env", self.make_env)
        monkeypatch.setattr(rendering, "Play", self.play)
        monkeypatch.setattr(rendering, "_captioned", self.caption)
        monkeypatch.setattr(rendering, "_imageio", lambda ending: self)
        monkeypatch.setattr(rendering, "_encode", self.encode)
        monkeypatch.setattr(rendering, "load", self.load)

    def team(self, task: str = "games/xor", **options: Any) -> Any:
        team = TeamPolicy.__new__(TeamPolicy)
        seen = {"task": task, "env_options": options, "spec": self.spec}
        team.__dict__.update(seen)
        vars(team)["reset"] = lambda seed: self.resets.append(seed)
        vars(team)["act"] = lambda obs, mask: None
        vars(team)["receive"] = lambda reward: self.received.append(float(reward[0]))
        return team

    def load(self, path: Any, **which: Any) -> Any:
        self.loaded = (path, which)
        return self.team()

    def make_env(self, task: str, num_envs: int, **options: Any) -> Any:
        self.asked = (task, num_envs, options)
        return self

    def seed(self, seeds: list[int]) -> None:
        self.seeds += seeds

    def render(self, copy: int, width: int, height: int) -> Any:
        self.sizes.add((width, height))
        return np.zeros((height, width, 3), np.uint8)

    def close(self) -> None:
        self.closed += 1

    def play(self, env: Any) -> Any:
        play = SimpleNamespace(live=np.arange(1), time=0, returns=np.zeros(1), reward=np.zeros(1))
        play.seen = SimpleNamespace(obs=None, action_mask=None)

        def step(action: Any) -> None:
            play.time += 1
            play.reward[:] = 0.5
            play.returns += 0.5
            play.live = np.arange(int(play.time < self.length))

        play.step = step
        return play

    def caption(self, frame: Any, text: str) -> Any:
        self.captions.append(text)
        frame[:] = len(self.captions)
        return frame

    def imwrite(self, place: str, image: Any, **options: Any) -> bytes:
        self.written.update(options, strip=image)
        return b"x"

    def mimwrite(self, place: str, frames: Any, **options: Any) -> bytes:
        self.written.update(options, frames=len(frames))
        return b"x"

    def encode(self, path: Path, frames: Any, **options: Any) -> None:
        self.written.update(options, frames=len(frames))
        path.write_bytes(b"x")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_frames_of_episodes(stage: Stage, tmp_path: Path) -> None:
    render(stage.team(), tmp_path / "v.gif", size=SMALL, every=2, episode_seed=7, fps=50)
    once = ["step 0, return 0.00", "step 2, return 1.00", "step 4, return 2.00", "step 5, return 2.50"]
    assert stage.captions == once * 2
    assert stage.written == {"frames": 8, "format": ".gif", "duration": 20.0, "loop": 0}
    seeds = [derive(7, "render", k) for k in range(2)]
    assert stage.seeds == seeds
    assert stage.resets == [seed % 2**32 for seed in seeds]
    assert stage.received == [0.5] * 10
    assert stage.sizes == {SMALL}
    assert (stage.closed, stage.asked) == (1, ("games/xor", 1, {}))


def test_long_episodes_are_thinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = Stage(monkeypatch, length=501, horizon=501)
    render(stage.team(), tmp_path / "v.gif", size=SMALL, episodes=1)
    assert stage.written["frames"] == 1 + 167  # every third step, which the last one is too


def test_videos_have_even_sides_and_pictures_any(stage: Stage, tmp_path: Path) -> None:
    render(stage.team(), tmp_path / "v.mp4", size=(7, 5), fps=10, episodes=1)
    assert stage.sizes == {(8, 6)}
    assert stage.written == {"frames": 6, "fps": 10, "macro_block_size": 2}
    stage.sizes.clear()
    render(stage.team(), tmp_path / "v.gif", size=(7, 5), episodes=1)
    assert stage.sizes == {(7, 5)}


def test_a_strip_is_of_evenly_spread_frames(stage: Stage, tmp_path: Path) -> None:
    render(stage.team(), tmp_path / "s.png", size=SMALL, strip=3)
    image = stage.written["strip"]
    assert image.shape == (6, 24, 3)
    assert stage.written["format"] == ".png"
    assert image[0, ::8, 0].tolist() == [1, 3, 6]  # of six frames; 2.5 is rounded to the even one


def test_a_checkpoint_is_loaded_as_asked(stage: Stage, tmp_path: Path) -> None:
    which: dict[str, Any] = {"method": "bc", "dataset": "D1", "seed": 4, "replica": 2, "best": True}
    render("a/run", tmp_path / "v.gif", size=SMALL, episodes=1, **which)
    assert stage.loaded == ("a/run", which)


def test_the_arena_is_the_trainings_unless_another_is_named(stage: Stage) -> None:
    team = stage.team("games/xor", level=2)
    rendering._arena("run", team, "", None)
    assert stage.asked == ("games/xor", 1, {"level": 2})
    rendering._arena("run", team, "games/bridge", None)
    assert stage.asked == ("games/bridge", 1, {})
    rendering._arena("run", team, "", {})
    assert stage.asked == ("games/xor", 1, {})
    rendering._arena("run", team, "", {"level": 3})
    assert stage.asked == ("games/xor", 1, {"level": 3})
    assert stage.closed == 0
    stage.differences.append("n_agents")
    with pytest.raises(ConfigError, match="the team does not fit games/xor: n_agents"):
        rendering._arena("run", team, "", None)
    assert stage.closed == 1
    with pytest.raises(ConfigError, match="does not name its task"):
        rendering._arena("run", stage.team(""), "", None)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("v.png", {}, r"end the name of a video in \.mp4 or \.gif"),
        ("v.gif", {"strip": 2}, r"end the name of a strip in \.png"),
        ("v.gif", {"every": -1}, "at least 0"),
        ("v.png", {"strip": -1}, "at least 0"),
        ("v.gif", {"episodes": 0}, "episodes is 0"),
        ("v.gif", {"fps": 0}, "fps is 0"),
        ("v.gif", {"size": (8, 0)}, "height is 0"),
        ("v.gif", {"size": (0, 8)}, "width is 0"),
        ("v.gif", {"size": (4097, 8)}, "at most 4096 pixels"),
        ("v.gif", {"size": (8, 4097)}, "at most 4096 pixels"),
        ("v.png", {"strip": 251}, "250 stills"),
    ],
)
def test_wrong_numbers(stage: Stage, tmp_path: Path, name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(stage.team(), tmp_path / name, **{"size": SMALL, **given})
    assert not stage.captions


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (
            None,
            r"render\(0, 8, 6\) returned a NoneType; it must return a picture, uint8 of shape \(6, 8, 3\)",
        ),
        (np.zeros((8, 6, 3), np.uint8), r".*returned uint8 of shape \(8, 6, 3\)"),
        (np.zeros((6, 8, 3)), r".*returned float64 of shape \(6, 8, 3\)"),
        (ValueError("no\nwindow"), r"render\(0, 8, 6\) failed: ValueError: no window"),
        (SpecError("own/a: not now"), "not now"),
    ],
)
def test_what_an_environment_of_ones_own_shows_instead_of_a_picture(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: Any, message: str
) -> None:
    def render_own(copy: int, width: int, height: int) -> Any:
        if isinstance(shown, Exception):
            raise shown
        return shown

    monkeypatch.setattr(stage, "render", render_own)
    with pytest.raises(SpecError, match=f"^own/a: {message}"):
        render(stage.team(), tmp_path / "v.gif", size=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [2, 3])
def test_frames_that_the_encoder_lost_are_told(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imageio = pytest.importorskip("imageio.v2", reason="the extra 'render' is not installed")
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra 'render' is not installed")
    monkeypatch.setattr(imageio, "mimwrite", lambda *given, **options: None)
    monkeypatch.setattr(ffmpeg, "count_frames_and_secs", lambda path: (kept, 0.1))
    frames: Any = [None] * 3
    if kept == 3:
        rendering._encode(tmp_path / "v.mp4", frames)
    else:
        with pytest.raises(OSError, match="the encoder kept 2 of 3 frames"):
            rendering._encode(tmp_path / "v.mp4", frames)
