"""What every set of Newton-Schulz polynomials makes of a singular value, in fp32 and with bf16 products.

    python experiments/benchmarks/polynomials.py    # draws experiments/benchmarks/results/polynomials.png (extra `viz`)

Measured, not composed from the formula: matrices of which one singular value is known go through the iteration as Muon
takes it by default, in five steps on the matrices themselves, and what then stands at its pair of vectors has come out
of it. On a CPU fp32 products are exact to 24 bits; a TPU rounds their factors to bf16 unless told otherwise.
"""

import argparse
import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from wallwm_jax.optim.newton_schulz import orthogonalize
from wallwm_jax.optim.polynomials import POLYNOMIALS, Polynomials, polynomials_of

SIDE, STEPS = 128, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default="experiments/benchmarks/results/polynomials.png")
    draw(parser.parse_args().output)


def measured_response(polynomials: Polynomials, values: Float[np.ndarray, "n"], dtype: str) -> Float[np.ndarray, "n"]:
    """What comes out of each of these singular values, given as parts of the Frobenius norm, in (0, 1), with products
    of that dtype. Each stands in a dense matrix of its own, whose other singular values share the rest of the norm."""
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(SIDE, SIDE)))[0] for _ in range(2))
    rest = np.sqrt((1 - np.square(values)) / (SIDE - 1))
    singular = np.concatenate([values[:, None], np.repeat(rest[:, None], SIDE - 1, axis=1)], axis=1)
    matrices = jnp.asarray((left * singular[:, None]) @ right.T, jnp.float32)
    found = np.asarray(orthogonalize(matrices, polynomials, dtype), np.float64)
    return np.einsum("i,nij,j->n", left[:, 0], found, right[:, 0])


def draw(path: pathlib.Path) -> None:
    """A panel for each set."""
    import matplotlib
    from matplotlib.figure import Figure

    from wallwm_jax.evaluate.figures import DPI, HOLD, MEAN, OURS, STYLE

    values = np.geomspace(1e-4, 0.999, 64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 6.0), layout="constrained")
        panels = figure.subplots(-(-len(POLYNOMIALS) // 2), 2, sharex=True, sharey=True).flat
        for axes, name in zip(panels, POLYNOMIALS, strict=True):
            axes.axhline(1.0, color=HOLD, lw=0.8)
            chosen = polynomials_of(name, STEPS)
            for dtype, colour, line in (("float32", MEAN, "-"), ("bfloat16", OURS, "--")):
                axes.plot(values, measured_response(chosen, values, dtype), line, color=colour, lw=1.4, label=dtype)
            axes.set(title=name, xscale="log")
        figure.supxlabel("singular value, part of the Frobenius norm", fontsize=9)
        figure.supylabel("after the iteration", fontsize=9)
        figure.axes[0].legend()
        figure.savefig(path, dpi=DPI, facecolor="white")


if __name__ == "__main__":
    main()
