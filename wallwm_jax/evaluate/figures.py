"""The report's pictures as bytes. The one module that needs matplotlib (extra `viz`)."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.errors import MILLIMETRES
from wallwm_jax.evaluate.lengths import LengthResult
from wallwm_jax.evaluate.results import ClusterBalance, Curve, TrajectoryExample
from wallwm_jax.evaluate.rollouts import Rollout
from wallwm_jax.evaluate.verb_results import VerbResult

try:
    import matplotlib
    from matplotlib.figure import Figure
    from PIL import Image
except ImportError as error:
    raise InputError("report", f"{error.name} is not installed", "pip install 'wallwm_jax[viz]'") from error

TRUTH, OURS, MEAN, HOLD = "#1f2933", "#d9480f", "#3b7dd8", "#adb5bd"
DPI = 110
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#868e96",
    "axes.labelcolor": "#495057",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "axes.axisbelow": True,
    "xtick.color": "#495057",
    "ytick.color": "#495057",
    "legend.frameon": False,
}


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()


def _panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list]:
    """A grid of `count` axes, `size` inches each; unused places stay empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def loss_curves(curves: Sequence[Curve]) -> bytes:
    """Training loss (faint, with its running mean) and held-out loss of each stage, logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(curves), 2, (5.0, 3.0))
        for axes, curve in zip(panels, curves, strict=True):
            axes.plot(curve.steps, curve.loss, color=HOLD, lw=0.8, label="training batch")
            if len(curve.loss) >= 20:
                axes.plot(*_running_mean(curve), color=MEAN, lw=1.4, label="training, running mean")
            if len(curve.heldout):
                axes.plot(curve.heldout_steps, curve.heldout, color=OURS, lw=1.4, marker="o", ms=3, label="held-out")
            axes.set(title=f"{curve.title} stage", xlabel="step", ylabel="loss", yscale="log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.legend()
        return _png(figure)


def _running_mean(curve: Curve) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    width = max(len(curve.loss) // 25, 2)
    window = np.full(width, 1.0 / width)
    return tuple(np.convolve(np.asarray(values, np.float64), window, "valid") for values in (curve.steps, curve.loss))


def verb_errors(verbs: Sequence[VerbResult]) -> bytes:
    """Median end error of ours, the mean trajectory and hold-still: one panel a unit, one group of bars a verb."""
    units = sorted({result.unit for result in verbs}, key=lambda unit: unit != MILLIMETRES)
    groups = [[result for result in verbs if result.unit == unit] for unit in units]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.2), layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False, width_ratios=[len(group) + 0.6 for group in groups])[0]
        for axes, unit, group in zip(panels, units, groups, strict=True):
            _verb_bars(axes, group)
            axes.set(ylabel="median end error, mm" if unit == MILLIMETRES else "median end error, gripper opening")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        return _png(figure)


def _verb_bars(axes, group: Sequence[VerbResult]) -> None:
    places = np.arange(len(group))
    kinds = (("wallwm", OURS, "ours"), ("mean trajectory", MEAN, "mean"), ("hold still", HOLD, "hold"))
    for shift, (label, colour, name) in zip((-0.27, 0.0, 0.27), kinds, strict=True):
        summaries = [getattr(result, name) for result in group]
        heights = [summary.end_median if summary else np.nan for summary in summaries]
        axes.bar(places + shift, heights, 0.25, color=colour, label=label)
    axes.set_xticks(places, [result.verb + ("*" if result.scene_dependent else "") for result in group])
    axes.grid(axis="x", visible=False)


def trajectories(examples: Sequence[TrajectoryExample]) -> bytes:
    """Each event's x, y, z (cm from the anchor) and gripper over time: truth solid, ours dashed, mean dotted."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(examples), 3, (3.5, 2.6))
        for axes, example in zip(panels, examples, strict=True):
            _trajectory(axes, example)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        return _png(figure)


def _trajectory(axes, example: TrajectoryExample) -> None:
    seconds = np.arange(len(example.truth) + 1) / example.control_hz
    colours = {"x": "#3b7dd8", "y": "#2b8a3e", "z": "#d9480f", "gripper": "#862e9c"}
    kinds = (("truth", example.truth, "-", 1.6), ("wallwm", example.ours, "--", 1.6), ("mean", example.mean, ":", 1.1))
    right = axes.twinx()
    right.grid(visible=False)
    for label, values, line, width in kinds:
        if values is None:
            continue
        values = np.concatenate([example.anchor[None], values])
        for column, (name, colour) in enumerate(colours.items()):
            target = right if name == "gripper" else axes
            shown = values[:, column] if name == "gripper" else 100 * (values[:, column] - example.anchor[column])
            target.plot(seconds, shown, line, color=colour, lw=width)
        axes.plot([], [], line, color=TRUTH, lw=width, label=label)
    for name, colour in colours.items():
        axes.plot([], [], color=colour, lw=3, label=name)
    right.set(ylim=(-0.05, 1.6), yticks=[0, 1])
    axes.set_title(example.caption if len(example.caption) <= 44 else example.caption[:42] + "…", fontsize=8)
    axes.set(xlabel="s", ylabel="cm from anchor")


def rollout(shown: Rollout) -> bytes:
    """Position (cm) and gripper over an episode: recorded, and predicted piece by piece from the dots on."""
    names = ("x, cm", "y, cm", "z, cm", "gripper")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.2), layout="constrained")
        panels = figure.subplots(4, 1, sharex=True)
        for column, (axes, name) in enumerate(zip(panels, names, strict=True)):
            scale = 1.0 if name == "gripper" else 100.0
            seconds = np.arange(1, len(shown.truth) + 1) / shown.control_hz
            axes.plot(seconds, scale * shown.truth[:, column], color=TRUTH, lw=1.2, label="recorded")
            for number, piece in enumerate(shown.pieces):
                seconds = (piece.start + np.arange(1, len(piece.path) + 1)) / shown.control_hz
                values, colour = scale * piece.path[:, column], (OURS, MEAN)[number % 2]
                axes.plot(seconds, values, color=colour, lw=1.4, label="predicted" if not number else None)
                axes.plot(seconds[:1], values[:1], "o", color=colour, ms=3)
            axes.set(ylabel=name)
        panels[-1].set(xlabel="s")
        panels[0].legend(loc="upper right", ncols=2)
        return _png(figure)


def end_points(displacements: Mapping[str, Float[np.ndarray, "_ 2 3"]]) -> bytes:
    """Predicted against true end displacement of every event, a panel a verb; on the diagonal is right."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(displacements), 4, (2.6, 2.6))
        for axes, (verb, pairs) in zip(panels, displacements.items(), strict=True):
            values = 100 * np.asarray(pairs)
            low, high = values.min() - 1, values.max() + 1
            axes.plot([low, high], [low, high], color=HOLD, lw=1)
            for column, (name, colour) in enumerate((("x", "#3b7dd8"), ("y", "#2b8a3e"), ("z", "#d9480f"))):
                axes.plot(values[:, 0, column], values[:, 1, column], "o", ms=3.2, alpha=0.75, color=colour, label=name)
            axes.set(title=f"{verb} ({len(values)} events)", xlabel="true, cm", ylabel="predicted, cm", aspect="equal")
        panels[0].legend(handletextpad=0.1)
        return _png(figure)


def cluster_balance(balances: Sequence[ClusterBalance]) -> bytes:
    """Share of each cluster, largest first, in the index and among the sampled events."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(balances), 2, (5.0, 2.6))
        for axes, balance in zip(panels, balances, strict=True):
            before, after = (100 * np.asarray(values, np.float64) for values in (balance.before, balance.after))
            order, places = np.argsort(-before), np.arange(len(before))
            axes.bar(places - 0.2, before[order], 0.4, color=HOLD, label="in the index")
            axes.bar(places + 0.2, after[order], 0.4, color=OURS, label="as sampled")
            axes.axhline(100 / max(len(before), 1), color=TRUTH, lw=0.8, ls=":", label="uniform")
            axes.set(title=balance.title, xlabel="cluster, largest first", ylabel="% of events", xticks=[])
            axes.legend()
        return _png(figure)


def lengths(result: LengthResult) -> bytes:
    """Predicted against true event length in control steps."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _panels(1, 1, (4.2, 3.2))
        high = max(max(result.true), max(result.predicted)) + 2
        axes.plot([0, high], [0, high], color=HOLD, lw=1)
        axes.plot(result.true, result.predicted, "o", ms=3.2, alpha=0.6, color=OURS)
        axes.set(xlabel="true length, control steps", ylabel="predicted length")
        return _png(figure)


def strip(rows: Sequence[UInt8[np.ndarray, "_ H W 3"]], quality: int = 88) -> bytes:
    """Rows of frames as one JPEG at their native resolution."""
    stream = io.BytesIO()
    Image.fromarray(_mosaic(rows)).save(stream, format="JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def motion(
    truth: UInt8[np.ndarray, "T V H W 3"], dream: UInt8[np.ndarray, "T V H W 3"], seconds: float, quality: int = 80
) -> bytes:
    """An endless WebP animation, truth above dream, views side by side; it rests on its last frame."""
    images = [Image.fromarray(_mosaic(pair)) for pair in zip(truth, dream, strict=True)]
    milliseconds = [round(1000 * seconds)] * (len(images) - 1) + [1200]
    stream = io.BytesIO()
    images[0].save(
        stream, format="WEBP", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, quality=quality
    )
    return stream.getvalue()


def _mosaic(rows: Sequence[UInt8[np.ndarray, "_ H W 3"]], gap: int = 2) -> UInt8[np.ndarray, "height width 3"]:
    """Rows of images with white gaps between them."""
    padded = [np.pad(row, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)[:-gap, :-gap]
