"""The command line from recorded episodes to a report, and its refusal of bad input."""

import json
import os
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import lerobot_fixture
from wallwm_jax.cli import pipeline
from wallwm_jax.cli.main import main
from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.trees import digest
from wallwm_jax.infer.policy import Policy
from wallwm_jax.train import loop
from wallwm_jax.train.checkpoint import read_checkpoint
from wallwm_jax.train.state import TrainState

CONFIG = str(pathlib.Path(__file__).resolve().parents[2] / "experiments/tabletop.py") + ":demo"
STAGES = ("video", "action", "backbone", "conditioner", "staircase", "adaptation")
SMALL = [
    "model.variant=micro",
    "data.rows=2",
    "stages.video.rows=2",
    "data.row_frames=5",
    "data.segments=2",
    "data.spatial_compression=4",
    "evaluate.video_steps=2",
    "evaluate.action_steps=2",
    "evaluate.rows=4",
    "evaluate.video_events=2",
    "reasoner.variant=micro",
    "planning.rows=2",
    "windows.loader.row_frames=5",
    "windows.index.action_clusters=4",
    *(
        f"stages.{stage}.{setting}"
        for stage in STAGES
        for setting in ("steps=3", "warmup_steps=1", "log_every=1", "eval_every=2", "eval_batches=1")
    ),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return lerobot_fixture.write_dataset(tmp_path_factory.mktemp("cli") / "toy", lerobot_fixture.toy_episodes(4))


def arguments(command, dataset, workdir, *overrides):
    """The command line of the real experiment, made small."""
    own = [f"dataset.root={dataset}", f"dataset.embodiment={dataset / 'embodiment.json'}"]
    settings = [part for override in (*own, *SMALL, *overrides) for part in ("--set", override)]
    return [command, "--config", CONFIG, "--workdir", str(workdir), *settings]


RECIPE = "recipe=(1, 2, 0, 3, 4, 5)"
FREEZE = "stages.adaptation.freeze=('action',)"


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """The workdir of a whole recipe, run by one command."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    assert main(arguments("run", dataset, workdir, RECIPE, FREEZE)) == 0
    return workdir


def test_run_writes_report_and_metrics_and_finds_its_own_work(run, dataset, capsys):
    """One command gives report.html and metrics.json with the promised fields; a second call trains nothing again."""
    assert "<html" in (run / "report.html").read_text()[:200]
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"video_loss_start", "video_loss_end", "verbs", "seconds"} <= set(metrics)
    for verb in metrics["verbs"].values():
        assert {"ours", "hold", "mean", "unit", "scene_dependent"} <= set(verb)
    losses = {stage: (run / stage / "metrics.jsonl").read_bytes() for stage in STAGES}
    assert main(arguments("run", dataset, run, RECIPE, FREEZE)) == 0
    assert {stage: (run / stage / "metrics.jsonl").read_bytes() for stage in STAGES} == losses
    assert str(run / "report.html") in capsys.readouterr().out


def test_every_stage_goes_on_from_the_one_before(run):
    """The text encoder of stage 1 is the same bits in all that follow, and stage 2's action tower in stage 5, whose
    config freezes it; the report also holds what the vision-language side knows, and an episode in both modes."""
    encoders = [read_checkpoint(run / stage / "checkpoints").averaged["text_encoder"] for stage in STAGES]
    assert len({digest(encoder) for encoder in encoders}) == 1
    before, after = (read_checkpoint(run / stage / "checkpoints").averaged for stage in ("action", "adaptation"))
    assert digest(before["action"]) == digest(after["action"])
    assert digest(before["video"]) != digest(after["video"])
    detail = json.loads((run / "metrics.json").read_text())["detail"]
    assert set(detail["rollouts"]) == {"event mode", "unified mode"}
    (language,) = detail["language"]
    assert language["split"] == "heldout" and 0 <= language["following"]["accuracy"] <= 1
    assert set(detail["text_sources"]["errors"]) == {"text encoder", "conditioner", "Staircase latents"}
    assert "Does it know what comes next?" in (run / "report.html").read_text()


def test_stopping_at_the_border_of_two_stages_changes_nothing(run, dataset, tmp_path):
    """Stage 2, begun anew on what stage 1 has left on disk, ends with the very parameters and averages of the run that
    one command did without a pause."""
    workdir = tmp_path / "run"
    for part in ("curated", "video"):
        shutil.copytree(run / part, workdir / part)
    shutil.copy(run / "config.json", workdir)
    assert main([*arguments("train", dataset, workdir, RECIPE), "--stage", "2"]) == 0
    paused, whole = (read_checkpoint(folder / "action" / "checkpoints") for folder in (workdir, run))
    assert digest([paused.parameters, paused.averaged]) == digest([whole.parameters, whole.averaged])


ROBOT = {
    "front": np.full((16, 16, 3), 90, np.uint8),
    "wrist": np.full((16, 16, 3), 60, np.uint8),
    "state": [0.1, 0.0, 0.2, 1.0],
}


@pytest.fixture(scope="module")
def copied(run, tmp_path_factory):
    """One step of stage action, copied without the rest of its run."""
    step = max((run / "action" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    target = tmp_path_factory.mktemp("copied") / "action" / "checkpoints" / step.name
    shutil.copytree(step, target)
    return target


def test_event_mode_needs_one_checkpoint_and_nothing_else(run, copied):
    """Statistics, embodiment, config and architecture are in its records: the same actions as from the run's own
    stage, and the sources that are missing say what they would need."""
    policies = [Policy.load(path) for path in (copied, run / "action")]
    first, second = (policy.infer(ROBOT, caption="lift the puck").actions for policy in policies)
    np.testing.assert_array_equal(first, second)
    said = policies[0].describe()
    assert said["checkpoint"]["stage"] == "action" and said["checkpoint"]["step"] == int(copied.name)
    assert said["text sources"]["caption"] == "available" and "staircase" in said["text sources"]["latents"]
    assert policies[1].describe()["text sources"]["latents"] == "available"
    with pytest.raises(InputError, match=r"text_source: found 'latents'.*no finished stage 'staircase'"):
        Policy.load(copied, text_source="latents")


def test_a_run_gives_the_last_stage_that_a_mode_can_use(run):
    """Stage adaptation for both modes, once it is finished; a policy of stage action is not asked for chunks."""
    for mode in ("event", "unified"):
        said = Policy.load(run, mode=mode).describe()
        assert said["checkpoint"]["stage"] == "adaptation" and said["image size"] == [16, 16]
    with pytest.raises(InputError, match="found 'action', expected a checkpoint of stage 'adaptation', for unified"):
        Policy.load(run / "action", mode="unified")


def test_a_run_without_its_tokenizer_has_no_latents(run, tmp_path):
    """Captions and instructions remain; another tokenizer than training's is refused."""
    for stage in ("adaptation", "staircase"):
        shutil.copytree(run / stage, tmp_path / stage)
    assert "no tokenizer" in Policy.load(tmp_path).describe()["text sources"]["planner"]
    (tmp_path / "curated").mkdir()
    (tmp_path / "curated" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: found another tokenizer"):
        Policy.load(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["planning.row=4"], "nearest: 'rows'"),
        (["reasoner.variant=huge"], "reasoner.variant"),
        (["windows.loader.row_frames=4"], "row_frames"),
        (["data.rwos=4"], "nearest: 'rows'"),
        (["mesh=host", "data.rows=0"], "data.rows"),
        (["stages.video.rows=0"], "config.stages.video.rows"),
        (["mesh=palmtop"], "config.mesh"),
        (["model.variant=huge"], "model.variant"),
        (["stages.video.warmup_steps=3"], "warmup_steps"),
        (["dataset.root=/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_code_2(dataset, tmp_path, capsys, overrides, message):
    """The message names the field; nothing is written, and nothing was trained before it was noticed."""
    workdir = tmp_path / "run"
    assert main(arguments("run", dataset, workdir, *overrides)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (workdir / "curated").exists() and not (workdir / "video").exists()


def test_stages_in_the_wrong_order_are_refused(dataset, tmp_path, capsys):
    """Stage 2 without stage 1, an unknown stage, an evaluation of nothing, a drive of it and an unknown mode
    each say what is missing."""
    workdir = tmp_path / "run"
    assert main(arguments("curate", dataset, workdir)) == 0
    assert main([*arguments("train", dataset, workdir), "--stage", "2"]) == 2
    assert main([*arguments("train", dataset, workdir), "--stage", "7"]) == 2
    assert main(arguments("evaluate", dataset, workdir)) == 2
    assert main([*arguments("evaluate", dataset, workdir), "--mode", "unified"]) == 2
    assert main([*arguments("evaluate", dataset, workdir), "--mode", "dream"]) == 2
    errors = capsys.readouterr().err
    assert "video" in errors and "--stage" in errors and "action" in errors
    assert "a finished stage 'adaptation', for unified mode" in errors
    assert "--mode: found 'dream', expected one of ('event', 'unified')" in errors


def test_a_run_that_is_asked_to_stop_begins_no_other_stage(dataset, tmp_path, capsys, monkeypatch):
    """SIGTERM in the first stage: the command says where it was saved and leaves with code 0, without the second stage
    and without a report; the handler from before is back."""
    workdir, trained, before = tmp_path / "run", [], signal.getsignal(signal.SIGTERM)

    def train_stage(config, name, curated, workdir, *, stop, accept, fault, patience):
        trained.append(name)
        stop.leave_at_once = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
        count = jnp.asarray(2, jnp.int32)
        return loop.StageResult(TrainState(count, count, count, {}, {}, {}), workdir / name)

    monkeypatch.setattr(loop, "train_stage", train_stage)
    assert main(arguments("run", dataset, workdir)) == 0
    assert trained == ["video"] and not (workdir / "report.html").exists()
    assert "asked to stop (SIGTERM): stage video is saved at step 2 of 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_several_processes_evaluate_nothing(dataset, tmp_path, capsys, monkeypatch):
    """They train, and say who evaluates: reading a checkpoint would wait for all of them."""
    workdir, trained = tmp_path / "run", []
    (workdir / "curated").mkdir(parents=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(pipeline, "train", lambda folder, number, *options: trained.append(number) or True)
    assert main(arguments("run", dataset, workdir, RECIPE)) == 0
    assert trained == [1, 2, 0, 3, 4, 5]
    assert "the same command in one process evaluates" in capsys.readouterr().out
    assert not (workdir / "report.html").exists()


def test_a_stage_that_cannot_go_on_ends_with_code_1(dataset, tmp_path, capsys, monkeypatch):
    """One line on stderr, no traceback; bad names of faults and changes are bad input."""

    def train_stage(*arguments, **options):
        raise RunError("checkpoint 6.partial could not be saved")

    monkeypatch.setattr(loop, "train_stage", train_stage)
    command = [*arguments("train", dataset, tmp_path / "run"), "--stage", "1"]
    assert main(command) == 1
    assert capsys.readouterr().err == "wallwm train: checkpoint 6.partial could not be saved\n"
    assert main([*command, "--inject", "melt@step=1"]) == 2
    assert main([*command, "--accept-change", "statistic"]) == 2
    errors = capsys.readouterr().err
    assert "'melt'" in errors and "--accept-change: found 'statistic'" in errors
