"""Pictures of a MuJoCo robot without a display, by EGL (graphics cards) or OSMesa (in software)."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_legacy import DRAWING, require_mujoco
from marlzoo.errors import ConfigError, MissingSimulatorError

BACKENDS = ("egl", "osmesa")
AZIMUTH = 90.0  # degrees
ELEVATION = -15.0  # degrees
DISTANCE = 4.0  # meters from the followed body
ABOVE = 0.85  # meters above a table
MAX_GEOMS = 1000
BUILT_IN = (640, 480)  # largest picture of a model that does not say otherwise


class Camera:
    """Follows a robot's first body from the side, or looks down on a table.

    Args:
        model: MuJoCo's.
        width: of a picture, in pixels.
        height: of a picture.
        table: whether the robot is an arm that stays on a table around the origin.

    Raises:
        ConfigError: a picture larger than the model allows, or an unknown ``MUJOCO_GL``.
        MissingSimulatorError: neither EGL nor OSMesa works here.
    """

    def __init__(self, model: Any, width: int, height: int, table: bool = False) -> None:
        if width > BUILT_IN[0] or height > BUILT_IN[1]:
            raise ConfigError(
                f"size {width}x{height}: pictures of MuJoCo are at most {BUILT_IN[0]}x{BUILT_IN[1]}"
            )
        self._mujoco: Any = require_mujoco()
        self._model = model
        self._size = (width, height)
        self._context = importlib.import_module(f"mujoco.{working_backend()}").GLContext(width, height)
        self._context.make_current()
        self._data = self._mujoco.MjData(model)
        self._scene = self._mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._options = self._mujoco.MjvOption()
        self._view = self._mujoco.MjvCamera()
        self._view.type = self._mujoco.mjtCamera.mjCAMERA_TRACKING
        self._view.trackbodyid = 1
        self._view.distance = DISTANCE
        self._view.azimuth = AZIMUTH
        self._view.elevation = ELEVATION
        if table:
            self._view.type = self._mujoco.mjtCamera.mjCAMERA_FREE
            self._view.lookat[:] = 0.0
            self._view.distance = ABOVE
            self._view.elevation = -90.0
        self._renderer = self._mujoco.MjrContext(model, self._mujoco.mjtFontScale.mjFONTSCALE_150)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)

    def take(self, qpos: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A picture ``[height, width, 3]`` of the robot in the pose ``qpos [nq]``."""
        self._context.make_current()
        self._data.qpos[:] = qpos
        self._mujoco.mj_forward(self._model, self._data)
        every = self._mujoco.mjtCatBit.mjCAT_ALL
        self._mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, self._view, every, self._scene
        )
        width, height = self._size
        place = self._mujoco.MjrRect(0, 0, width, height)
        self._mujoco.mjr_render(place, self._scene, self._renderer)
        pixels = np.empty((height, width, 3), np.uint8)
        self._mujoco.mjr_readPixels(pixels, None, place, self._renderer)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the graphics context."""
        self._renderer.free()
        self._context.free()


@cache
def working_backend() -> str:
    """The way of drawing that works here: that of ``MUJOCO_GL`` if it is set, else the first of :data:`BACKENDS`.

    Each is tried in a process of its own, because the first one that is loaded decides for a whole process.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted and wanted not in BACKENDS:
        raise ConfigError(f"MUJOCO_GL is {wanted!r}; pictures without a display need egl or osmesa")
    for backend in (wanted,) if wanted else BACKENDS:
        code = f"from mujoco.{backend} import GLContext; GLContext(8, 8).make_current()"
        environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"} | {
            "MUJOCO_GL": backend
        }
        tried = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=False
        )
        if tried.returncode == 0:
            os.environ.setdefault("MUJOCO_GL", backend)
            return backend
    raise MissingSimulatorError(
        f"MuJoCo cannot draw here ({wanted or 'neither EGL nor OSMesa works'}); {DRAWING}"
    )
