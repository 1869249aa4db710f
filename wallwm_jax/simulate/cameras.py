"""Rendering and calibration of named cameras of a MuJoCo model, and the frame both are expressed in."""

import atexit
import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError

TO_UNIFIED = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Meta-World's frame (x right, y forward, z up) to the unified world frame (x forward, y left, z up)."""


def to_unified(point: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Meta-World frame to unified world frame."""
    return np.asarray(point) @ TO_UNIFIED.T


def from_unified(point: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Unified world frame to Meta-World frame."""
    return np.asarray(point) @ TO_UNIFIED


def import_mujoco():
    """MuJoCo with EGL as its renderer, unless the environment names another one.

    Raises:
        InputError: MuJoCo or Meta-World is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import metaworld  # noqa: F401
        import mujoco
    except ImportError as error:
        raise InputError("simulator", error, "the extra `sim`: pip install 'wallwm_jax[sim]'") from error
    return mujoco


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera of the model; `turned` ones hang upside down, and their images are delivered the right way up."""

    name: str
    turned: bool = False


class CameraRig:
    """The views of one model. Built before anything else renders the model: it switches slow settings off."""

    def __init__(self, model, cameras: Mapping[str, Camera], size: int):
        self._mujoco, self._model, self._cameras, self._size = import_mujoco(), model, dict(cameras), size
        # Multisampling and the large default buffer must be off before the GL context exists: 8-20 times faster.
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._renderer = None

    def render(self, data) -> UInt8[np.ndarray, "V H W 3"]:
        """One image a view, without shadows and reflections."""
        if self._renderer is None:
            self._renderer = self._mujoco.Renderer(self._model, self._size, self._size)
            for flag in (self._mujoco.mjtRndFlag.mjRND_SHADOW, self._mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0
            # Registered after MuJoCo's own exit function, so run before it ends EGL.
            atexit.register(self.close)
        images = []
        for camera in self._cameras.values():
            self._renderer.update_scene(data, camera.name)
            image = self._renderer.render()
            images.append(image[::-1, ::-1].copy() if camera.turned else image.copy())
        return np.stack(images)

    def calibration(self, data) -> tuple[Float[np.ndarray, "V 3 3"], Float[np.ndarray, "V 4 4"]]:
        """Intrinsics (pixels; the centre of the first pixel is at 0.5) and extrinsics (unified world frame to camera,
        OpenCV axes, metres) of every view now, for the images as delivered."""
        intrinsics, extrinsics = [], []
        for camera in self._cameras.values():
            pose = data.camera(camera.name)
            focal = self._size / (2.0 * np.tan(np.deg2rad(self._model.camera(camera.name).fovy[0]) / 2.0))
            intrinsics.append([[focal, 0.0, self._size / 2], [0.0, focal, self._size / 2], [0.0, 0.0, 1.0]])
            axes = np.diag([-1.0, 1.0, -1.0] if camera.turned else [1.0, -1.0, -1.0])
            rotation = axes @ pose.xmat.reshape(3, 3).T
            matrix = np.eye(4)
            matrix[:3, :3] = rotation @ TO_UNIFIED.T
            matrix[:3, 3] = -rotation @ pose.xpos
            extrinsics.append(matrix)
        return np.array(intrinsics), np.stack(extrinsics)

    def close(self) -> None:
        """Frees the GL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self.close)
