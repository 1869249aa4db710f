"""Package metadata. Core needs neither torch nor TensorFlow; everything optional is an extra."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = next(
    line.split('"')[1] for line in (ROOT / "wallwm_jax/__init__.py").read_text().splitlines() if "__version__" in line
)

CORE = [
    "jax>=0.10.0",
    "flax>=0.12.8",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "ml-collections>=1.1.0,<2",
    "chex>=0.1.90,<0.2",
    "numpy>=2.0",
    "pyarrow>=17",
    "av>=14",
    "tokenizers>=0.21",
    "safetensors>=0.5",
    "absl-py>=2.1",
    "rich>=13",
    "jaxtyping>=0.3",
]
SIM = ["metaworld==3.1.1", "gymnasium>=1.0", "packaging>=24", "mujoco>=3.3.0,<3.4"]
VIZ = ["matplotlib>=3.9"]
TENSORBOARD = ["tensorboardX>=2.6"]
RERUN = ["rerun-sdk>=0.26"]
PLAN = ["jax[tpu]"]
DEV = ["pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "beartype>=0.19", "ruff>=0.17,<0.18", "pre-commit>=4"]

setuptools.setup(
    name="wallwm_jax",
    version=VERSION,
    description="World action models on semantic events, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["wallwm_jax", "wallwm_jax.*"]),
    install_requires=CORE,
    extras_require={
        "sim": SIM,
        "viz": VIZ,
        "tensorboard": TENSORBOARD,
        "rerun": RERUN,
        "plan": PLAN,
        "dev": DEV + SIM + VIZ + PLAN,
    },
    entry_points={"console_scripts": ["wallwm=wallwm_jax.cli.main:main"]},
)
