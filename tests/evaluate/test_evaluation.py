"""Open loop and the whole evaluation, on a small invented dataset and the micro model."""

import json

import jax
import numpy as np
import pytest

from tests.evaluate.clipping_metric import CLIPPING
from tests.evaluate.toy_dataset import SIZE, VIEWS
from wallwm_jax.core.errors import InputError
from wallwm_jax.data.packing import event_batch
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.evaluate.dreams import Reconstruct
from wallwm_jax.evaluate.evaluation import evaluate, read_curve
from wallwm_jax.evaluate.events import future_frames, observation, recorded_event, select_rows, spread_over_verbs
from wallwm_jax.evaluate.metrics import METRICS
from wallwm_jax.evaluate.open_loop import event_errors
from wallwm_jax.evaluate.report import write_report
from wallwm_jax.evaluate.results import write_metrics
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.infer.conditions import WindowSettings, condition_batch
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.infer.event_mode import EventModeSettings
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.optim.builder import assignment_table
from wallwm_jax.train.assignment import ASSIGNMENT

LOADER = LoaderSettings(row_frames=4, max_latent_frames=3, text_length=16, spatial_compression=4)


@pytest.fixture(scope="module")
def settings():
    window = WindowSettings(max_latent_frames=3, text_length=16, spatial_compression=4, buckets=(3,))
    solver = SolverSettings(video_steps=2, action_steps=2, anchor_step=0)
    return EvaluationSettings(EventModeSettings(4, window, solver), LOADER, video_events=4, films=3, examples=4)


@pytest.fixture(scope="module")
def micro(curated):
    """The micro model with fresh parameters."""
    model = WorldAction(variant("micro"), views=len(VIEWS))
    return model, *init_parameters(model, jax.random.key(0), event_batch(curated, [0], LOADER, 3))


@pytest.fixture(scope="module")
def evaluation(micro, curated, settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("metrics") / "video.jsonl"
    lines = [{"step": step, "video_loss": 1 / step, "loss": -1.0, "heldout_loss": 2 / step} for step in (25, 50, 100)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 101, "video_loss": None}]))
    model, parameters, declarations = micro
    table = assignment_table(parameters, declarations)
    (path.parent / ASSIGNMENT).write_text(json.dumps(table))
    metrics = (*METRICS, CLIPPING)
    return evaluate(
        model, parameters, curated, settings, metrics_files={"video": path}, metrics=metrics, progress=lambda _: None
    )


def test_event_mode_sees_what_the_loader_would_show(curated):
    """Masks, ids, positions, times and state of event mode's batch equal those of the evaluation loader's: the model
    meets at run time exactly what it met in training. Texts are no part of the former: they may come from elsewhere."""
    rows = curated.index.select("heldout")[:3]
    loader = event_batch(curated, rows, LOADER, 3)
    events = [recorded_event(curated, row, LOADER) for row in rows]
    window = WindowSettings(max_latent_frames=3, text_length=16, spatial_compression=4)
    batch = condition_batch(
        [observation(curated, event) for event in events], [event.window.steps for event in events],
        3, 3, curated.embodiment, curated.statistics, window,
    )  # fmt: skip
    unknown = {"frames", "actions", "intrinsics", "extrinsics", "camera_mask", "event_rows", "text", "text_mask"}
    unknown |= {"effectors", "effector_mask", "told_event", "latents"}
    for name in set(batch._fields) - unknown:
        np.testing.assert_allclose(getattr(batch, name), getattr(loader, name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(batch.frames[:, 0], loader.frames[:, 0])
    for row, event in enumerate(events):
        future = future_frames(curated, event, LOADER)
        np.testing.assert_array_equal(future, loader.frames[row, 1 : 1 + len(future)])


def test_verbs_carry_both_baselines(evaluation):
    """Hold-still's end error is the true displacement; the mean knows that lift rises by 10 cm; reach depends on the
    scene; the two long reaches are counted as truncated."""
    verbs = {result.verb: result for result in evaluation.value("verbs")}
    assert set(verbs) == {"reach", "grasp", "lift"}
    assert verbs["lift"].hold.end_median == pytest.approx(100, abs=0.01)
    assert verbs["lift"].mean.end_median == pytest.approx(0, abs=0.01)
    assert verbs["grasp"].unit == "opening" and verbs["grasp"].hold.end_median == pytest.approx(1.0)
    assert [verb for verb, result in verbs.items() if result.scene_dependent] == ["reach"]
    assert verbs["reach"].events == 4 and verbs["reach"].truncated == 2
    assert all(np.isfinite(result.ours.end_mean) for result in verbs.values())
    for result in verbs.values():
        assert sum(row.events for row in result.objects.values()) == result.events
        total = sum(row.events * row.ours.end_mean for row in result.objects.values())
        assert total / result.events == pytest.approx(result.ours.end_mean)


def test_films_and_examples_are_of_one_event_a_verb(evaluation, curated):
    """One film and one example a verb; a film's times start at the keyframe and end at the event's end."""
    assert len(evaluation.filmstrips) == 3 and len(evaluation.trajectories) == 3
    for film in evaluation.filmstrips:
        assert film.truth.shape == film.dream.shape and len(film.times) == len(film.truth[:: film.every])
        assert film.times[0] == 0 and film.times[-1] <= 16 / 20
    assert {example.verb for example in evaluation.trajectories} == {"reach", "grasp", "lift"}
    assert evaluation.end_points.keys() == {"reach", "lift"} and evaluation.end_points["reach"].shape == (4, 2, 3)


def test_lengths_have_their_baseline(evaluation):
    """The verb's median training length is exact for grasp and lift and half-way between the reaches (12 and 20)."""
    assert sorted(evaluation.value("length").true) == [4, 4, 7, 7, 12, 12, 20, 20]
    assert evaluation.value("length").baseline_mean_error == pytest.approx(2.0)


def test_whole_evaluation_becomes_a_report(evaluation, tmp_path):
    """Curves, clusters, parameters and video are filled, and both files are written."""
    assert evaluation.curves[0].heldout == [2 / 25, 2 / 50, 2 / 100] and len(evaluation.curves[0].loss) == 3
    assert [len(balance.before) for balance in evaluation.clusters] == [4, 2]
    video = evaluation.value("video")
    assert video.events == 4 and video.codec.psnr > video.dream.psnr
    assert {row.optimizer for row in evaluation.parameters} == {"muon", "adamw"}
    write_metrics(evaluation, tmp_path / "metrics.json")
    write_report(evaluation, tmp_path / "report.html")
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["video_loss_start"] == 2 / 50 and values["video_loss_end"] == 2 / 100
    assert set(values["verbs"]) == {"reach", "grasp", "lift"}
    assert evaluation.filmstrips[0].title in (tmp_path / "report.html").read_text()


def test_a_metric_from_outside_is_measured(evaluation, tmp_path):
    """Passed as an argument beside the package's own, it is computed from the predictions and stands in both files."""
    write_metrics(evaluation, tmp_path / "metrics.json")
    write_report(evaluation, tmp_path / "report.html")
    found = json.loads((tmp_path / "metrics.json").read_text())["detail"]["clipping"]
    assert found["events"] == 8 and found == evaluation.value("clipping")
    assert "Beyond the limits" in (tmp_path / "report.html").read_text()


def test_missing_files_of_a_stage_are_named_before_anything_is_predicted(micro, curated, settings, tmp_path):
    """Its metrics, and then its assignment of parameters."""
    said, (model, parameters, _) = [], micro
    for name in ("metrics.jsonl", ASSIGNMENT):
        with pytest.raises(InputError, match=name):
            evaluate(
                model, parameters, curated, settings, metrics_files={"video": tmp_path / "metrics.jsonl"},
                progress=said.append,
            )  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "video_loss": 1.0, "heldout_loss": 1.0}) + "\n")
    assert not said


def test_errors_of_the_truth_are_zero(curated):
    """Predicting the recorded targets errs by nothing, in both units; a verb unknown to training has no mean error."""
    for row in curated.index.select("heldout")[:2]:
        event = recorded_event(curated, row, LOADER).trajectory
        errors = event_errors(event, event.actions, None)
        assert set(errors) == {"ours", "hold"} and errors["ours"].end == 0 and errors["hold"].end > 0


def test_selection_spreads_over_verbs(curated):
    """At most so many of each verb; the dreamt ones take the verbs in turn."""
    rows = select_rows(curated, "heldout", 1)
    assert sorted(curated.index.columns["verb"][rows]) == ["grasp", "lift", "reach"]
    events = [recorded_event(curated, row, LOADER) for row in curated.index.select("heldout")]
    chosen = [events[place].trajectory.verb for place in spread_over_verbs(events, 4)]
    assert sorted(chosen) == ["grasp", "lift", "reach", "reach"]
    with pytest.raises(InputError, match="split 'nowhere'"):
        select_rows(curated, "nowhere", None)


def test_reconstruction_pads_and_restores(micro):
    """Any number of groups goes through one shape; a flat grey picture survives the codec to a grey level."""
    model, parameters, _ = micro
    groups = np.full((5, 4, 2, SIZE, SIZE, 3), 100, np.uint8)
    rebuilt = Reconstruct(model, parameters, rows=4)(groups)
    assert rebuilt.shape == groups.shape
    np.testing.assert_allclose(rebuilt.astype(int), 100, atol=1)


def test_unknown_setting_is_refused():
    """A misspelt key names the nearest."""
    config = {"data": {}, "evaluate": {"video_step": 3}, "stages": {"action": {"objective": {}}}}
    with pytest.raises(InputError, match="video_steps"):
        EvaluationSettings.from_config(config)


def test_settings_come_from_the_whole_config():
    """Solver steps from `evaluate`, the anchor from the action stage's objective, the window from `data`."""
    config = {
        "data": {"max_latent_frames": 5, "row_frames": 8},
        "evaluate": {"video_steps": 3, "rows": 7, "events": 9},
        "stages": {"action": {"objective": {"anchor_step": 0, "shift": 2.0, "draws": 6}}},
    }
    settings = EvaluationSettings.from_config(config)
    assert settings.mode.rows == 7 and settings.events == 9 and settings.window.row_frames == 8
    assert settings.mode.window.max_latent_frames == 5 and settings.mode.solver.video_steps == 3
    assert settings.mode.solver.anchor_step == 0 and settings.mode.solver.shift == 2.0


def test_missing_metrics_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        read_curve("video", tmp_path / "nothing.jsonl")
