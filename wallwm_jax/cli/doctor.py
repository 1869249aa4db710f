"""What this machine has: versions, devices, cores, GL."""

import importlib.metadata
import os
import platform

from rich.console import Console
from rich.table import Table

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pyarrow", "av")
OPTIONAL = {"sim": "metaworld", "viz": "matplotlib", "tensorboard": "tensorboardX"}


def report() -> None:
    """Prints a table of versions, devices and extras."""
    import jax

    table = Table(title="wallwm doctor", show_header=False)
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        table.add_row(package, version(package) or "missing")
    for extra, package in OPTIONAL.items():
        table.add_row(f"extra {extra}", version(package) or f"not installed (pip install 'wallwm_jax[{extra}]')")
    table.add_row("devices", ", ".join(str(device) for device in jax.devices()))
    table.add_row("cores", str(os.cpu_count()))
    table.add_row("simulator", simulator_state())
    Console().print(table)


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def simulator_state() -> str:
    """Whether the simulator can render here, tried for real with one tiny image."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
        renderer = mujoco.Renderer(model, 8, 8)
        renderer.update_scene(mujoco.MjData(model))
        renderer.render()
        renderer.close()
    except Exception as error:  # any failure of the GL stack is an answer here, not a fault
        return f"cannot render: {type(error).__name__}: {error}"
    return f"renders with MUJOCO_GL={os.environ['MUJOCO_GL']}"
