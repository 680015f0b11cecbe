"""``marlzoo render``: videos and stills of a trained team, without a display."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import marlzoo
from marlzoo.cli import main
from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.envs import _camera, _mujoco_legacy
from marlzoo.envs._drawing import battle
from marlzoo.errors import ConfigError, MissingSimulatorError, OutputError, SpecError
from marlzoo.families import task_spec
from marlzoo.training.checkpoint import save
from tests.full_disk import full_disk

imageio = pytest.importorskip("imageio.v2", reason="the extra 'render' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'render' is not installed")


def team(task: str) -> TeamPolicy:
    spec = task_spec(task)
    return TeamPolicy(marlzoo.make("bc", spec, hidden=8).policy(), spec, method="bc", task=task)


def test_a_gif_of_the_particle_world(tmp_path: Path) -> None:
    file = marlzoo.render(team("mpe/spread"), tmp_path / "v.gif", episodes=2, every=10, size=(160, 120))
    frames = imageio.mimread(file)
    assert len(frames) == 2 * 4  # steps 0, 10, 20 and the last, 25
    assert frames[0].shape[:2] == (120, 160)
    assert (frames[0] != frames[3]).any()


def test_a_strip_of_bridge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "team.npz", marlzoo.make("bc", task_spec("games/bridge"), hidden=8))
    command = ["render", str(tmp_path / "team.npz"), "--strip", "3", "-o", str(tmp_path / "s.png")]
    assert main(command) == 2
    assert "does not name its task" in capsys.readouterr().err
    assert main([*command, "--task", "games/bridge", "--size", "100", "80"]) == 0
    assert "Rendered in 0:00:" in capsys.readouterr().err
    assert imageio.imread(tmp_path / "s.png").shape[:2] == (80, 300)


def test_odd_sizes_of_a_video_are_made_even(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the encoder's advice on the terminal, which is about a setting that no option has."""
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'render' is not installed")
    made = marlzoo.render(team("games/bridge"), tmp_path / "v.mp4", episodes=1, every=10, size=(101, 81))
    assert imageio.mimread(made)[0].shape == (82, 102, 3)
    assert "macro_block_size" not in caplog.text


def test_a_video(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'render' is not installed")
    file = marlzoo.render(team("games/bridge"), tmp_path / "v.mp4", episodes=1, every=25, size=(64, 48))
    assert file.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("name", ["v.gif", "v.mp4"])
def test_a_full_disk_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'render' is not installed")
    with full_disk(tmp_path / name):
        marlzoo.render(team("games/bridge"), tmp_path / name, episodes=1, every=25, size=(64, 48))


def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of a strip does not try again when it is collected."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def render() -> None:
        try:
            marlzoo.render(team("games/bridge"), tmp_path / "s.png", strip=3, every=25, size=(64, 48))
        except OutputError as error:
            text = str(error)  # without the frames that hold the writer
        gc.collect()
        raise OutputError(text)

    with full_disk(tmp_path / "s.png"):
        render()
    assert told == []


def test_pictures_follow_the_state() -> None:
    env = marlzoo.make_env("games/bridge", 2)
    env.reset()
    before = env.render(0, 96, 72)
    env.step(np.array([[1, 1], [3, 3]]), np.array([1]))
    np.testing.assert_array_equal(env.render(0, 96, 72), before)
    assert (env.render(1, 96, 72) != before).any()


def test_a_maze_shows_where_agents_are_and_have_to_go() -> None:
    env = marlzoo.make_env("games/t-maze", 1)
    env.reset()
    start = env.render(0, 120, 90)
    env.step(np.array([[5, 6]]))  # each its own color
    apart = env.render(0, 120, 90)
    assert (apart != start).any()  # the ends have frames now
    env.step(np.array([[1, 0]]))
    moved = env.render(0, 120, 90)
    assert (moved != apart).any()
    env.reset()
    np.testing.assert_array_equal(env.render(0, 120, 90), start)


def test_a_battle_shows_who_lives_and_how_well() -> None:
    position = np.array([[8.0, 16.0], [8.0, 20.0], [24.0, 16.0]])
    kind = np.array([0, 1, 0])

    def shown(*health: float, allies: int = 2) -> np.ndarray:
        return battle(position, np.array(health), kind, allies, (32.0, 32.0), 160, 120)

    whole = shown(1.0, 1.0, 1.0)
    assert whole.shape == (120, 160, 3)
    changed = (whole != shown(1.0, 0.5, 1.0)).any(-1)
    assert changed.any()
    assert changed.mean() < 0.01  # a bar
    assert (whole != shown(1.0, 0.0, 1.0)).any(-1).sum() > changed.sum()  # its marker is gone, too
    assert (whole != shown(1.0, 1.0, 1.0, allies=1)).any()


def test_a_battle_of_smax() -> None:
    pytest.importorskip("jaxmarl", reason="the extra 'smax' is not installed")
    env = marlzoo.make_env("smax/3m", 2)
    env.reset()
    before = env.render(1, 160, 120)
    env.step(np.full((2, env.spec.n_agents), 0), np.array([1]))
    assert (env.render(1, 160, 120) != before).any()


def drawable() -> bool:
    try:
        _camera.working_backend()
    except MissingSimulatorError:
        return False
    return True


def test_a_robot(tmp_path: Path) -> None:
    if not drawable():
        pytest.skip("neither EGL nor OSMesa works here (Debian's package libosmesa6)")
    # In a process of its own: what draws stays loaded, and with it its threads.
    code = (
        "import sys, numpy as np, marlzoo\n"
        "env = marlzoo.make_env('mamujoco/hopper-3x1', 2)\n"
        "env.reset()\n"
        "first = env.render(0, 160, 120)\n"
        "for _ in range(5): env.step(np.ones((2, 3, 1), np.float32), np.array([0]))\n"
        "print(first.shape, first.std() > 5, (env.render(0, 160, 120) != first).mean() > 0.01)\n"
        "env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(120, 160, 3) True True\n", done.stderr


@pytest.mark.parametrize("task", ["moma/reacher-2x1_full", "gmamujoco/2reacher"])
def test_an_arm_on_a_table_is_seen(task: str) -> None:
    """A turn of the shoulder moves a good part of the picture, which is not of the space around the table."""
    if not drawable():
        pytest.skip("neither EGL nor OSMesa works here (Debian's package libosmesa6)")
    code = (
        "import sys, numpy as np, marlzoo\n"
        "env = marlzoo.make_env(sys.argv[1], 1)\n"
        "env.reset()\n"
        "first = env.render(0, 160, 120).astype(int)\n"
        "for _ in range(10): env.step(np.ones((1, 2, 1), np.float32))\n"
        "moved = np.abs(env.render(0, 160, 120) - first).max(-1) > 20\n"
        "print(moved.mean() > 0.01, (first.max(-1) == 0).mean() < 0.1)\n"
        "env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code, task], capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stdout + done.stderr


def test_a_machine_that_cannot_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess((), 1)

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(MissingSimulatorError, match="apt-get install libosmesa6"):
        _camera.working_backend.__wrapped__()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(ConfigError, match="need egl or osmesa"):
        _camera.working_backend.__wrapped__()


def test_an_import_of_mujoco_that_a_graphics_library_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "mujoco":
                raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    for name in [name for name in sys.modules if name.split(".")[0] == "mujoco"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(
        MissingSimulatorError, match=r"MUJOCO_GL=osmesa .*glGetError.*unset MUJOCO_GL, or on Debian"
    ):
        _mujoco_legacy.require_mujoco.__wrapped__()


def test_what_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match="games/xor: this environment cannot be drawn: a matrix game has noth"
    ):
        marlzoo.render(team("games/xor"), tmp_path / "v.gif")
    for options, text in (
        ({"out": "v.gif", "size": (100_000, 10)}, "at most 4096 pixels wide and high"),
        ({"out": "v.png", "strip": 1000}, "250 stills"),
        ({"out": "v.avi"}, r"a video in \.mp4 or \.gif"),
        ({"out": "v.gif", "strip": 2}, r"a strip in \.png"),
        ({"out": "v.gif", "episodes": 0}, "episodes is 0"),
        ({"out": "v.gif", "task": "mpe/spread"}, "the team does not fit mpe/spread: "),
    ):
        out = tmp_path / str(options.pop("out"))  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match=text):
            marlzoo.render(team("games/bridge"), out, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
