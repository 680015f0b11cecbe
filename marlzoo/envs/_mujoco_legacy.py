"""The MuJoCo models behind Gym's ``-v2`` tasks, rebuilt on a current engine, and those of the ``-v5`` tasks.

The same XML means a different model today, because two rules of the compiler and the collision code changed:

- engines up to 2.1.0 took a capsule (radius r, half-length h) for a solid cylinder of length 2h + r when they
  computed its mass and inertia; since 2.1.2 they use the exact capsule;
- since 3.5.0 the contact margins of two geoms are summed; before, the larger of the two counted.

:func:`legacy_model` undoes both; :func:`modern_model` leaves them.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from marlzoo.errors import MarlzooError, MissingSimulatorError, pip_install

DRAWING = "on Debian or Ubuntu install OSMesa: apt-get install libosmesa6"
REMEDY = f"Install it with: {pip_install('mujoco')}"


@cache
def require_mujoco() -> Any:
    """The ``mujoco`` package with ``mujoco.batch`` loaded.

    Raises:
        MarlzooError: it is not installed, or its version has no ``mujoco.batch`` or other physics.
        MissingSimulatorError: the graphics library that ``MUJOCO_GL`` names does not work here.
    """
    try:
        import mujoco
    except Exception as error:  # also of the graphics library that MUJOCO_GL names, which the import loads
        chosen = os.environ.get("MUJOCO_GL", "")
        if chosen and not isinstance(error, ModuleNotFoundError):
            raise MissingSimulatorError(
                f"mujoco cannot be imported with MUJOCO_GL={chosen} ({type(error).__name__}: {error}); unset "
                f"MUJOCO_GL, or {DRAWING}"
            ) from error
        raise MarlzooError(f"mamujoco tasks need the package 'mujoco' ({error}). {REMEDY}") from error
    version = getattr(mujoco, "__version__", "0")
    major = int(version.split(".")[0])
    try:
        import mujoco.batch
    except ImportError as error:
        raise MarlzooError(
            f"mamujoco tasks need mujoco.batch; mujoco {version} has none. {REMEDY}"
        ) from error
    if major != 3:
        # 4.0 integrates the orientation of free joints differently: Ant and Humanoid are then not -v2.
        raise MarlzooError(f"mamujoco tasks are not exact on mujoco {version}. {REMEDY}")
    return mujoco


def asset_text(name: str) -> str:
    """The XML of one robot (file name without suffix), from the installed gymnasium package.

    Raises:
        MarlzooError: gymnasium is not installed or has no such file.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MarlzooError(
            f"mamujoco tasks need gymnasium's robot models ({error}). "
            f"Install it with: {pip_install('gymnasium')}"
        ) from error
    # Found by path: importing gymnasium.envs.mujoco would need rendering packages.
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / f"{name}.xml"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MarlzooError(
            f"gymnasium {gymnasium.__version__} has no robot model {path} ({error}). "
            f"Install another release: {pip_install('gymnasium')}"
        ) from error


@cache
def margins_are_summed() -> bool:
    """Whether this engine sums the margins of two geoms (asked of the engine: sphere over plane)."""
    mujoco = require_mujoco()
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><geom type="plane" size="1 1 1" margin="0.01"/><body pos="0 0 0.115">'
        '<freejoint/><geom type="sphere" size="0.1" margin="0.01"/></body></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return bool(data.ncon > 0)


def _capsules_to_cylinders(spec: Any, mujoco: Any) -> None:
    """Replace every capsule of ``spec`` by the cylinder that old engines weighed in its place."""
    for geom in spec.geoms:
        if geom.type != mujoco.mjtGeom.mjGEOM_CAPSULE:
            continue
        geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
        radius = float(geom.size[0])
        ends = np.array(geom.fromto, dtype=float)
        if np.isfinite(ends).all():
            axis = ends[3:] - ends[:3]
            axis *= radius / 2 / np.linalg.norm(axis)
            geom.fromto = np.concatenate([ends[:3] - axis, ends[3:] + axis])
        else:
            geom.size = [radius, float(geom.size[1]) + radius / 2, 0.0]


def _without_scaling(asset: str) -> str:
    """A robot's XML without the attribute that scales its mass: it is deprecated, warns and writes a log file."""
    return re.sub(r'\ssettotalmass="[^"]*"', "", asset_text(asset))


def modern_model(asset: str, total_mass: float | None = None) -> Any:
    """Compile one of gymnasium's robots as its ``-v5`` task does; see :func:`legacy_model` for the arguments."""
    mujoco = require_mujoco()
    model = mujoco.MjModel.from_xml_string(_without_scaling(asset))
    if total_mass is not None:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def legacy_model(asset: str, total_mass: float | None = None) -> Any:
    """Compile one of gymnasium's robots so that it moves as in Gym's ``-v2`` tasks.

    Args:
        asset: file name of the robot's XML without suffix, for instance ``hopper``.
        total_mass: mass in kg to which the whole robot is scaled (HalfCheetah: 14).

    Returns:
        A ``mujoco.MjModel`` with capsules for collisions and the old masses, inertias and margins.
    """
    mujoco = require_mujoco()
    text = _without_scaling(asset)
    model = mujoco.MjSpec.from_string(text).compile()
    spec = mujoco.MjSpec.from_string(text)
    _capsules_to_cylinders(spec, mujoco)
    twin = spec.compile()
    if total_mass is not None:
        mujoco.mj_setTotalmass(twin, total_mass)
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        getattr(model, name)[:] = getattr(twin, name)
    if margins_are_summed():
        model.geom_margin[:] *= 0.5
    # Constraint islands came later; without them these small robots step faster, and bit for bit the same.
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
