"""The one self-contained HTML page of an evaluation."""

from collections import Counter
from pathlib import Path

from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate import closed_loop_section, figures, film_section, language_section, page, rollout_section
from wallwm_jax.evaluate.errors import MILLIMETRES, ErrorSummary
from wallwm_jax.evaluate.results import VIDEO_LOSS_START_STEP, Evaluation, VerbResult, metrics

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
        _actions(evaluation),
        _trajectories(evaluation),
        _video(evaluation),
        rollout_section.render(evaluation.rollouts) if evaluation.rollouts else "",
        _closed_loop(evaluation),
        language_section.render(evaluation.language, evaluation.text_sources) if evaluation.language else "",
        _lengths(evaluation),
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


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _tiles(evaluation: Evaluation) -> list[tuple[str, str]]:
    values = metrics(evaluation)
    tiles = []
    if values["video_loss_start"] and values["video_loss_end"]:
        change = f"{values['video_loss_start']:.3f} → {values['video_loss_end']:.3f}"
        tiles.append((change, f"held-out video loss, step {VIDEO_LOSS_START_STEP} to the end"))
    verbs = evaluation.verbs
    if verbs:
        better = sum(result.ours.end_median < result.hold.end_median for result in verbs)
        tiles.append((f"{better} of {len(verbs)}", "verbs with a smaller action error than holding still"))
    scene = [result for result in verbs if result.scene_dependent and result.mean]
    if scene:
        better = sum(result.ours.end_median < result.mean.end_median for result in scene)
        tiles.append((f"{better} of {len(scene)}", "scene-dependent verbs with less error than the mean trajectory"))
    reach = next((result for result in verbs if result.verb == "reach"), None)
    if reach:
        tiles.append((f"{reach.ours.end_median:.0f} mm", f"median end error of reach ({_versus(reach)})"))
    if evaluation.video:
        gain = evaluation.video.dream.moved_psnr - evaluation.video.copy.moved_psnr
        tiles.append((f"{gain:+.1f} dB", "dream against a frozen frame, on the pixels that moved"))
    if evaluation.closed_loop:
        closed = evaluation.closed_loop
        tiles.append((f"{closed.completed} of {closed.events}", "events completed in closed loop in the simulator"))
    return tiles


def _versus(result: VerbResult) -> str:
    mean = f"mean trajectory {result.mean.end_median:.0f}, " if result.mean else ""
    return f"{mean}hold still {result.hold.end_median:.0f}"


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


def _actions(evaluation: Evaluation) -> str:
    if not evaluation.verbs:
        return ""
    explanation = (
        "Error of the predicted trajectory against the recorded one. Moving verbs: distance of the end-effector in "
        "millimetres. Grasp and release: difference of the gripper's opening (0 closed, 1 open). <b>Hold still</b> "
        "keeps the anchor pose; <b>mean trajectory</b> replays the average motion of the same verb and object in "
        "training, stretched to the event's length, without looking. Predictions here are given the event's true "
        f"length. A star marks verbs that depend on the scene: {page.escape(evaluation.scene_rule)}."
    )
    measures = [f"{name}, {place}" for place in ("end", "along") for name in ("ours", "mean", "hold")]
    head = ["verb", "unit", "events", *measures]
    rows = [_verb_row(result) for result in evaluation.verbs]
    note = "<p>Medians over events (means in brackets); <i>end</i>: last step, <i>along</i>: mean over steps.</p>"
    scene = ", ".join(page.escape(result.verb) for result in evaluation.verbs if result.scene_dependent) or "none"
    other = ", ".join(page.escape(result.verb) for result in evaluation.verbs if not result.scene_dependent) or "none"
    note += f"<p>Depend on the scene: <b>{scene}</b>. Do not: {other}.</p>"
    note += "".join(_by_object(result) for result in evaluation.verbs if result.scene_dependent)
    bars = page.figure(figures.verb_errors(evaluation.verbs), "median end error by verb")
    return page.section("Does it act?", explanation, bars, page.table(head, rows), note)


def _verb_row(result: VerbResult) -> list[str]:
    digits = 1 if result.unit == MILLIMETRES else 3
    cells = []
    for measure in ("end", "along"):
        summaries = (result.ours, result.mean, result.hold)
        medians = [getattr(summary, f"{measure}_median") if summary else float("inf") for summary in summaries]
        for summary, median in zip(summaries, medians, strict=True):
            mark = "*" if median == min(medians) else ""
            cells.append(mark + _median_mean(summary, measure, digits))
    events = f"{result.events}" + (f" ({result.truncated} cut)" if result.truncated else "")
    return [page.escape(result.verb) + ("*" if result.scene_dependent else ""), result.unit, events, *cells]


def _by_object(result: VerbResult) -> str:
    """One line: a verb's median end error by object; nothing if there is one object only."""
    if len(result.objects) < 2:
        return ""
    digits = 1 if result.unit == MILLIMETRES else 3
    parts = []
    for name, row in result.objects.items():
        against = f", mean trajectory {_number(row.mean.end_median, digits)}" if row.mean else ""
        parts.append(f"{page.escape(name)} {_number(row.ours.end_median, digits)} ({row.events} events{against})")
    return f"<p>{page.escape(result.verb)}, median end error in {result.unit}: {'; '.join(parts)}.</p>"


def _median_mean(summary: ErrorSummary | None, measure: str, digits: int) -> str:
    if summary is None:
        return "–"
    median, mean = (getattr(summary, f"{measure}_{kind}") for kind in ("median", "mean"))
    return f"{median:.{digits}f} ({mean:.{digits}f})"


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


def _video(evaluation: Evaluation) -> str:
    video = evaluation.video
    if video is None:
        return ""
    explanation = (
        f"Over {video.images} images of {video.events} held-out events (last frame of every latent, every view). "
        "Most of a tabletop never moves, so a frozen frame scores well; the last column counts only the pixels that "
        "differ from the keyframe. The codec's own reconstruction of the truth is the ceiling."
    )
    named = (("dream", video.dream), ("copy of the keyframe", video.copy), ("codec ceiling", video.codec))
    rows = [
        [name, _number(quality.psnr, 2), _number(quality.ssim, 4), _number(quality.moved_psnr, 2)]
        for name, quality in named
    ]
    return page.section("Video quality", explanation, page.table(["", "PSNR, dB", "SSIM", "PSNR, moved, dB"], rows))


def _closed_loop(evaluation: Evaluation) -> str:
    return closed_loop_section.render(evaluation.closed_loop) if evaluation.closed_loop else ""


def _lengths(evaluation: Evaluation) -> str:
    result = evaluation.length
    if result is None:
        return ""
    explanation = (
        f"Before dreaming, the duration head says how long the event will last. Median error {result.median_error:.1f} "
        f"control steps (mean {result.mean_error:.1f}) over {result.events} events; always guessing the verb's median "
        f"length in training errs by {result.baseline_median_error:.1f} (mean {result.baseline_mean_error:.1f})."
    )
    return page.section("How long is an event?", explanation, page.figure(figures.lengths(result), "event lengths"))


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
