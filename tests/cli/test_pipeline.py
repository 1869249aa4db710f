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

from tests.core.test_files import read_only_folder
from tests.data import lerobot_fixture
from tests.journeys.journey import scripts, take
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


@pytest.mark.parametrize("file", ["episodes.npz", "frames"])
def test_data_that_changed_since_is_refused(run, dataset, tmp_path, capsys, file):
    """A stage is not gone on with, nor taken for finished, on other actions or other pictures than it has learned from;
    the line has the field, and the name that accepts it."""
    workdir = tmp_path / "run"
    for part in ("curated", "video"):
        shutil.copytree(run / part, workdir / part)
    if file == "frames":
        for path in (workdir / "curated" / file).glob("*.npy"):
            np.save(path, 255 - np.load(path))
    else:
        numbers = dict(np.load(workdir / "curated" / file))
        np.savez(workdir / "curated" / file, **{**numbers, "action": 3 * numbers["action"]})
    assert main([*arguments("train", dataset, workdir, RECIPE), "--stage", "1"]) == 2
    error = capsys.readouterr().err
    assert f"sources.{file}: found " in error and "--accept-change data" in error and error.count("\n") == 1


@pytest.mark.parametrize("script", scripts(from_a_run=True), ids=lambda path: path.stem)
def test_a_journey_starts_from_a_trained_run(run, script, monkeypatch, tmp_path):
    """What a new user does with a run's folder (tests/journeys)."""
    take(script, monkeypatch, tmp_path, run)


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
        (["data.spatial_compression=8"], "config.data.spatial_compression: found 8, expected 4, which the codec of"),
        (["data.spatial_compression=2"], "config.data.spatial_compression: found 2, expected 4"),
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


FIRST_STAGES = """
import importlib.util

def get_config():
    specification = importlib.util.spec_from_file_location("tabletop", {path!r})
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    config = module.get_config("demo")
    config.recipe = ("video", 2)
    for name in {absent}:
        del config[name]
    for name in ("backbone", "conditioner", "staircase", "adaptation"):
        del config.stages[name]
    return config
"""
"""A config file that only knows stages 1 and 2, without the sections `absent`."""


def first_stages(folder, dataset, *absent):
    """The command line's options for such a config, made small."""
    path = folder / "first_stages.py"
    path.write_text(FIRST_STAGES.format(path=CONFIG.partition(":")[0], absent=absent))
    own = [f"dataset.root={dataset}", f"dataset.embodiment={dataset / 'embodiment.json'}"]
    there = [key for key in SMALL if key.split(".")[0] not in absent and key.split(".")[1] not in STAGES[2:]]
    settings = [part for key in (*own, *there) for part in ("--set", key)]
    return ["--config", str(path), "--workdir", str(folder / "run"), *settings]


def test_a_config_needs_what_its_recipe_needs(dataset, tmp_path, capsys, monkeypatch):
    """Stages 1 and 2 train without sections of the vision-language side and of windows; a stage that would need one of
    them misses it in one line before anything is read, and so does a recipe without `data`."""
    options = first_stages(tmp_path, dataset, "planning", "reasoner", "windows")
    trained = []

    def train_stage(config, name, curated, workdir, **options):
        trained.append(name)
        count = jnp.asarray(3, jnp.int32)
        return loop.StageResult(TrainState(count, count, count, {}, {}, {}), workdir / name)

    monkeypatch.setattr(loop, "train_stage", train_stage)
    for choice in ("1", "video", "action"):
        assert main(["train", *options, "--stage", choice]) == 0
    assert trained == ["video", "video", "action"]
    for choice, missing in (("adaptation", "windows"), ("backbone", "planning")):
        assert main(["train", *options, "--stage", choice]) == 2
        error = capsys.readouterr().err
        assert f"config: found no '{missing}', expected what stage {choice} needs" in error and error.count("\n") == 1
    assert main(["train", *options, "--stage", "videos"]) == 2
    assert "nearest: 'video'" in capsys.readouterr().err
    assert main(["train", *first_stages(tmp_path, dataset, "data"), "--stage", "video"]) == 2
    assert "config: found no 'data', expected what stage video needs" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curated").exists()


def test_evaluation_says_what_it_misses(dataset, tmp_path, capsys):
    """A config without a section `evaluate`, and an inference mode that no family has."""
    assert main(["evaluate", *first_stages(tmp_path, dataset, "evaluate")]) == 2
    assert "config: found no 'evaluate', expected what the evaluation of family world_action" in capsys.readouterr().err
    assert main([*arguments("evaluate", dataset, tmp_path / "run"), "--mode", "events"]) == 2
    assert "--mode: found 'events', expected one of ['event', 'unified'] (nearest: 'event')" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "curate", "train", "evaluate"])
def test_a_work_folder_that_cannot_be_written_is_one_line(dataset, capsys, command):
    """Before anything is read or compiled."""
    own = ["--stage", "1"] if command == "train" else []
    with read_only_folder() as folder:
        assert main([*arguments(command, dataset, folder / "run"), *own]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"wallwm {command}: --workdir {folder}/run: found Permission denied")
        assert error.count("\n") == 1


@pytest.mark.parametrize("argument", ["demoo", "demo"])
def test_a_config_file_that_raises_is_one_line(tmp_path, capsys, argument):
    """For an argument that it does not know, and for whatever else is wrong in it."""
    path = pathlib.Path(CONFIG.partition(":")[0])
    if argument == "demo":
        (tmp_path / "broken.py").write_text(path.read_text().replace("def get_config(", "def get_config(("))
        path = tmp_path / "broken.py"
    assert main(["curate", "--config", f"{path}:{argument}", "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"wallwm curate: --config {path}:{argument}: found ") and error.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"curate": "x"}', "\xff"])
def test_damaged_seconds_lose_no_work(dataset, tmp_path, capsys, text):
    """The part of a run that has just been done counts: one line says that the seconds are counted anew."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "seconds.json").write_bytes(text.encode("latin1"))
    assert main(arguments("curate", dataset, workdir)) == 0
    assert "seconds.json is damaged" in capsys.readouterr().out
    assert set(json.loads((workdir / "seconds.json").read_text())) == {"curate"}
    assert (workdir / "seconds.json.damaged").read_bytes() == text.encode("latin1")


def test_seconds_that_cannot_be_written_lose_no_work(dataset, tmp_path, capsys, monkeypatch):
    """A full disk at the end of a part is told, and the part has been done."""

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    whole = pipeline.write_durably
    monkeypatch.setattr(
        pipeline, "write_durably", lambda path, text: (full if path.name == "seconds.json" else whole)(path, text)
    )
    assert main(arguments("curate", dataset, tmp_path / "run")) == 0
    assert "seconds.json cannot be written (No space left on device)" in capsys.readouterr().out
    monkeypatch.setattr(pipeline, "write_durably", full)
    assert main(arguments("curate", dataset, tmp_path / "run")) == 1
    assert capsys.readouterr().err.endswith("config.json: No space left on device\n")


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
    assert "--mode: found 'dream', expected one of ['event', 'unified'] (nearest: 'event')" in errors


def test_a_run_that_is_asked_to_stop_begins_no_other_stage(dataset, tmp_path, capsys, monkeypatch):
    """SIGTERM in the first stage: the command says where it was saved and leaves with code 75, which no job manager
    takes for done, without the second stage and without a report, also if the signal came with the stage's last step;
    the handler from before is back."""
    workdir, trained, before = tmp_path / "run", [], signal.getsignal(signal.SIGTERM)
    steps = [2, 3, 2]

    def train_stage(config, name, curated, workdir, *, stop, **options):
        trained.append(name)
        stop.leave_at_once = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
        count = jnp.asarray(steps[len(trained) - 1], jnp.int32)
        return loop.StageResult(TrainState(count, count, count, {}, {}, {}), workdir / name)

    monkeypatch.setattr(loop, "train_stage", train_stage)
    for text in ("stage video is saved at step 2 of 3", "the same command goes on after stage video"):
        assert main(arguments("run", dataset, workdir)) == 75
        assert f"asked to stop (SIGTERM): {text}" in capsys.readouterr().out
    assert trained == ["video", "video"] and not (workdir / "report.html").exists()
    assert main([*arguments("train", dataset, workdir), "--stage", "1"]) == 75
    assert signal.getsignal(signal.SIGTERM) == before


def test_several_processes_evaluate_nothing(dataset, tmp_path, capsys, monkeypatch):
    """They train, and say who evaluates: reading a checkpoint would wait for all of them."""
    workdir, trained = tmp_path / "run", []
    (workdir / "curated").mkdir(parents=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        pipeline, "train", lambda folder, stage, *options: trained.append(stage) or pipeline.Trained(True, None)
    )
    assert main(arguments("run", dataset, workdir, RECIPE)) == 0
    assert trained == ["video", "action", "backbone", "conditioner", "staircase", "adaptation"]
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
