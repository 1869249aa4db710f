"""The one self-contained HTML page of an evaluation."""

from collections import Counter
from pathlib import Path

from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate import closed_loop_section, figures, film_section, language_section, page, rollout_section
from wallwm_jax.evaluate.results import VIDEO_LOSS_START_STEP, Evaluation, metrics

MOVING = 6
"""Events shown in motion."""


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Writes the report (under 5 MB); raises InputError if matplotlib is missing."""
    write_durably(path, render(evaluation))


def render(evaluation: Evaluation) -> str:
    """The page as text. Sections without results are left out."""
    parts = [
        page.tiles(_tiles(evaluation)),
        _motion(evaluation),
        _films(evaluation),
        *(one.section() for one in evaluation.measured),
        _trajectories(evaluation),
        rollout_section.render(evaluation.rollouts) if evaluation.rollouts else "",
        _closed_loop(evaluation),
        language_section.render(evaluation.language, evaluation.text_sources) if evaluation.language else "",
        _training(evaluation),
        _clusters(evaluation),
        _parameters(evaluation),
        _counts(evaluation),
    ]
    introduction = (
        "A world action model was shown one moment of a robot's work (a keyframe from each camera, the arm's pose and "
        "a sentence naming the next event) and dreamt the rest: the video of the whole event in every view, and the "
        "arm's trajectory. Everything below is measured on episodes it never saw in training."
    )
    return page.document("wallwm: dreaming and acting, event by event", introduction, *parts)


def _tiles(evaluation: Evaluation) -> list[tuple[str, str]]:
    values = metrics(evaluation)
    tiles = []
    if values["video_loss_start"] and values["video_loss_end"]:
        change = f"{values['video_loss_start']:.3f} → {values['video_loss_end']:.3f}"
        tiles.append((change, f"held-out video loss, step {VIDEO_LOSS_START_STEP} to the end"))
    tiles += [tile for one in evaluation.measured for tile in one.tiles()]
    if evaluation.closed_loop:
        closed = evaluation.closed_loop
        tiles.append((f"{closed.completed} of {closed.events}", "events completed in closed loop in the simulator"))
    return tiles


def _motion(evaluation: Evaluation) -> str:
    if not evaluation.filmstrips:
        return ""
    views = ", ".join(page.escape(view) for view in evaluation.filmstrips[0].views)
    explanation = (
        f"Truth above, dream below; left to right {views}. The model has seen the first frame and the sentence, no "
        "more. Of each verb this is the event whose action error is the median: neither the best nor the worst."
    )
    cards = []
    for film in evaluation.filmstrips[:MOVING]:
        animation = figures.motion(film.truth, film.dream, film.frame_seconds)
        drawn = page.image(animation, "webp", f"truth over dream of {film.title}")
        cards.append(f"<div>{drawn}<h3>“{page.escape(film.title)}”</h3></div>")
    return page.section("What it dreamt", explanation, f'<div class="motion">{"".join(cards)}</div>')


def _films(evaluation: Evaluation) -> str:
    if not evaluation.filmstrips:
        return ""
    explanation = (
        "The same events and more, truth above and dream below for every camera. The first column is the keyframe; "
        "each further column is the last frame of one latent (the video's resolution in time), up to the event's end."
    )
    films = "".join(film_section.render(film, keyframe=True) for film in evaluation.filmstrips)
    return page.section("Frame by frame", explanation, films)


def _trajectories(evaluation: Evaluation) -> str:
    parts = []
    if evaluation.end_points:
        parts.append("<p>Where each event ended against where the model said it would, relative to its anchor.</p>")
        parts.append(page.figure(figures.end_points(evaluation.end_points), "predicted against true end displacement"))
    if evaluation.trajectories:
        parts.append("<p>Single events over time, relative to the anchor; the gripper's scale is at the right.</p>")
        parts.append(page.figure(figures.trajectories(evaluation.trajectories), "trajectories of single events"))
    explanation = (
        "World frame: x forward, y left, z up. A model that only replays the mean of its training data shows flat "
        "clouds below; one that looks at the scene shows diagonals."
    )
    return page.section("Trajectories", explanation, *parts) if parts else ""


def _closed_loop(evaluation: Evaluation) -> str:
    return closed_loop_section.render(evaluation.closed_loop) if evaluation.closed_loop else ""


def _training(evaluation: Evaluation) -> str:
    if not evaluation.curves:
        return ""
    explanation = (
        "Stage 1 trains the video tower and the text encoder; stage 2 freezes them and trains the action tower and the "
        "duration head on the video tower's features. The held-out loss uses fixed noise, so its points are comparable."
    )
    return page.section("Training", explanation, page.figure(figures.loss_curves(evaluation.curves), "loss curves"))


def _clusters(evaluation: Evaluation) -> str:
    if not evaluation.clusters:
        return ""
    explanation = (
        "Events are clustered twice, by what is seen and said and by how the arm moves; training draws them so that "
        "both clusterings come out even, so rare events (recoveries among them) are seen as often as common ones."
    )
    picture = page.figure(figures.cluster_balance(evaluation.clusters), "cluster balance before and after")
    return page.section("Cluster balance", explanation, picture)


def _parameters(evaluation: Evaluation) -> str:
    rows = evaluation.parameters
    if not rows:
        return ""
    total, shares = sum(row.numbers for row in rows), Counter()
    for row in rows:
        shares[row.optimizer] += row.numbers / max(total, 1)
    updated = ", ".join(f"{share:.0%} updated by {page.escape(name)}" for name, share in shares.most_common())
    explanation = (
        f"{total / 1e6:.2f} M parameters, {updated}. One string declares each parameter's axes; shape, initialisation, "
        "optimizer and decay follow from it."
    )
    cells = [
        [
            f"<code>{page.escape(row.name)}</code>",
            " × ".join(map(str, row.shape)),
            f"<code>{page.escape(row.axes)}</code>",
            page.escape(row.optimizer),
            "yes" if row.decay else "no",
        ]
        for row in rows
    ]
    body = page.table(["parameter", "shape", "axes", "optimizer", "decay"], cells)
    return page.section("Parameters", explanation, f"<details><summary>{len(rows)} arrays</summary>{body}</details>")


def _counts(evaluation: Evaluation) -> str:
    rows = [[page.escape(name), page.escape(value)] for name, value in evaluation.counts.items()]
    explanation = f"All of it took {evaluation.seconds:.0f} s."
    return page.section("What was run", explanation, page.table(["", ""], rows))
