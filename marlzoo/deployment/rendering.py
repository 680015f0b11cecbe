"""``marlzoo.render``: episodes of a trained team as a video, or as a strip of stills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.deployment.loading import load
from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.envs.episodes import Play
from marlzoo.errors import ConfigError, MarlzooError, MissingExtraError, SpecError, lack_of_memory
from marlzoo.families import make_env
from marlzoo.replicas import derive
from marlzoo.system.files import atomic_write
from marlzoo.training.played_task import played_task

if TYPE_CHECKING:
    from marlzoo.envs.base import BatchedEnv

Frame = NDArray[np.uint8]
VIDEOS = (".mp4", ".gif")
STILLS = (".png",)
FRAMES = 250  # of an episode, unless told otherwise
LARGEST = 4096  # pixels of a frame's side


def render(
    path: str | Path | TeamPolicy,
    out: str | Path,
    *,
    episodes: int = 2,
    strip: int = 0,
    task: str = "",
    env: Mapping[str, Any] | None = None,
    every: int = 0,
    fps: int = 25,
    size: tuple[int, int] = (480, 360),
    episode_seed: int = 0,
    method: str = "",
    dataset: str = "",
    seed: int | None = None,
    replica: int | None = None,
    best: bool = False,
) -> Path:
    """Play episodes and write them as a video, or one episode as a strip of stills.

    Args:
        path: a checkpoint, the folder of a run that has one, or a loaded team.
        out: the file: .mp4 or .gif, with ``strip`` .png.
        episodes: to play.
        strip: number of stills of one episode, at most 250, side by side, instead of a video.
        task: full task name; default: that of the training.
        env: options of the task's environment; default: those of the training.
        every: show every so many steps; 0: as many as keep an episode within 250 frames.
        fps: frames per second.
        size: width and height of a frame, in pixels, at most 4096; of an .mp4 they are rounded up to even ones.
        episode_seed: of the starts.
        method: see :func:`marlzoo.load`.
        dataset: see :func:`marlzoo.load`.
        seed: see :func:`marlzoo.load`.
        replica: see :func:`marlzoo.load`.
        best: see :func:`marlzoo.load`.

    Returns:
        The file.

    Raises:
        ConfigError: wrong numbers, a wrong ending, or a task of another shape.
        UnknownNameError: nothing here plays the task.
        SpecError: the environment cannot be drawn, or its own ``render`` fails or returns no picture.
        MissingExtraError: imageio or matplotlib is not installed.
        MissingSimulatorError: the machine cannot draw; names what to install.
        OutputError: the file cannot be written.
    """
    target = Path(out)
    _check(target, episodes=episodes, fps=fps, width=size[0], height=size[1])
    if strip < 0 or every < 0:
        raise ConfigError("strip and every must be at least 0")
    endings = STILLS if strip else VIDEOS
    if target.suffix not in endings:
        what = "a strip" if strip else "a video"
        raise ConfigError(f"{target}: end the name of {what} in {' or '.join(endings)}")
    if max(size) > LARGEST or strip > FRAMES:
        raise ConfigError(f"{target}: at most {LARGEST} pixels wide and high, and {FRAMES} stills")
    writer = _imageio(target.suffix)
    if target.suffix == ".mp4":  # whose encoder takes even sizes only
        size = size[0] + size[0] % 2, size[1] + size[1] % 2
    team = (
        path
        if isinstance(path, TeamPolicy)
        else load(path, method=method, dataset=dataset, seed=seed, replica=replica, best=best)
    )
    arena = _arena("the team" if team is path else path, team, task, env)
    step = every or -(-arena.spec.horizon // FRAMES)
    try:
        played = range(1 if strip else episodes)
        shown = (list(_episode(team, arena, derive(episode_seed, "render", k), step, size)) for k in played)
        # Pictures in memory first: a writer that meets a full disk tries again when it is collected.
        with atomic_write(target) as temporary:
            if strip:
                still = np.concatenate(_stills(next(shown), strip), axis=1)
                temporary.write_bytes(writer.imwrite("<bytes>", still, format=target.suffix))
            else:
                frames = [frame for episode in shown for frame in episode]
                timing = _timing(target.suffix, fps)
                if target.suffix == ".mp4":
                    _encode(temporary, frames, **timing)
                else:
                    temporary.write_bytes(writer.mimwrite("<bytes>", frames, format=target.suffix, **timing))
    finally:
        arena.close()
    return target


def _episode(
    team: TeamPolicy, env: BatchedEnv, seed: int, every: int, size: tuple[int, int]
) -> Iterator[Frame]:
    """Frames of an episode, each with step and return so far; the last step is always shown."""
    env.seed([seed])
    play = Play(env)
    team.reset(seed=seed % 2**32)
    yield _captioned(_picture(env, *size), "step 0, return 0.00")
    while play.live.size:
        play.step(team.act(play.seen.obs, play.seen.action_mask))
        team.receive(play.reward)
        if not play.live.size or play.time % every == 0:
            yield _captioned(_picture(env, *size), f"step {play.time}, return {play.returns[0]:.2f}")


def _picture(env: BatchedEnv, width: int, height: int) -> Frame:
    """What an environment shows, which may be anything where it is one's own."""
    try:
        found: Any = env.render(0, width, height)
    except Exception as error:  # foreign code fails in any way
        if isinstance(error, MarlzooError) or lack_of_memory(error):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(f"{env.task}: render(0, {width}, {height}) failed: {cause}") from error
    shape = (height, width, 3)
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != np.uint8:
        array = isinstance(found, np.ndarray)
        what = f"{found.dtype} of shape {found.shape}" if array else f"a {type(found).__name__}"
        raise SpecError(
            f"{env.task}: render(0, {width}, {height}) returned {what}; it must return a picture, uint8 of shape "
            f"{shape} (docs/own_environment.md, Pictures)"
        )
    return found


def _encode(path: Path, frames: Sequence[Frame], **options: Any) -> None:
    """Write an .mp4, and read it again: the encoder does not tell of a disk that becomes full at the end.

    Raises:
        OSError: the file is not whole.
    """
    import imageio.v2 as imageio
    import imageio_ffmpeg

    try:
        imageio.mimwrite(path, list(frames), ffmpeg_log_level="quiet", **options)
        found, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except (OSError, RuntimeError) as error:  # its text is the whole command and log of the encoder
        raise OSError("the encoder could not finish it") from error
    if found < len(frames):
        raise OSError(f"the encoder kept {found} of {len(frames)} frames")


def _timing(ending: str, fps: int) -> dict[str, Any]:
    """Options of imageio's writer: GIFs state milliseconds per frame, and are shown without end."""
    return {"fps": fps, "macro_block_size": 2} if ending == ".mp4" else {"duration": 1000 / fps, "loop": 0}


def _captioned(frame: Frame, text: str) -> Frame:
    from PIL import Image, ImageDraw

    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    box = draw.textbbox((8, 6), text)
    draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill="white")
    draw.text((8, 6), text, fill="black")
    return np.asarray(image)


def _stills(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Evenly spaced frames, the first and the last among them."""
    return [frames[k] for k in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _arena(place: object, team: TeamPolicy, task: str, options: Mapping[str, Any] | None) -> BatchedEnv:
    name = played_task(place, task, team.task)
    trained = team.env_options if name == team.task else {}
    env = make_env(name, 1, **(trained if options is None else options))
    differences = team.spec.differences(env.spec)
    if differences:
        env.close()
        raise ConfigError(
            f"the team does not fit {name}: {differences[0]} (left: the team's, right: the task's); give the task "
            "that it was trained for, or leave task out"
        )
    return env


def _imageio(ending: str) -> Any:
    try:
        import imageio.v2 as imageio

        if ending == ".mp4":
            import imageio_ffmpeg  # noqa: F401 - encodes
    except ImportError as error:
        raise MissingExtraError(error.name or "imageio", "render", "a video") from error
    return imageio


def _check(target: Path, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{target}: {name} is {value}; it must be at least 1")
