"""Metrics files, settings, the architecture's JSON, prefetching, reporters."""

import dataclasses
import io
import json
import resource

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import batch_sharding, make_mesh
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import ActionSettings
from wallwm_jax.train.architecture import architecture, build_model, model_of
from wallwm_jax.train.defaults import default_config
from wallwm_jax.train.families import stage_of, stages_of
from wallwm_jax.train.metrics import MetricsFile, read_metrics
from wallwm_jax.train.prefetch import Prefetcher
from wallwm_jax.train.progress import PlainReporter, summary
from wallwm_jax.train.settings import build, stage_settings


def test_metrics_of_steps_after_the_checkpoint_are_dropped(tmp_path):
    """Resuming at step 4 keeps steps 2 and 4, drops 6 and a line that was cut off, and appends; NaN becomes null."""
    path = tmp_path / "run" / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (2, 4, 6):
        file.write({"step": step, "loss": 1.0 / step})
    path.write_text(path.read_text() + '{"step": 7, "lo')
    MetricsFile(path, 4).write({"step": 6, "loss": float("nan")})
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(2, 0.5), (4, 0.25), (6, None)]
    assert [child.name for child in path.parent.iterdir()] == ["metrics.jsonl"]
    with pytest.raises(InputError, match="no such file"):
        read_metrics(tmp_path / "none.jsonl")


def test_damaged_lines_of_metrics_are_set_aside(tmp_path):
    """Resuming keeps every line that can be read, says which one cannot, and keeps the file as it was; reading a
    damaged file is refused by its line. A second damaged file does not replace the first."""
    path, notes = tmp_path / "metrics.jsonl", []
    for number, damage in enumerate((b"\xff\xfe{\n", b'{"loss": 1}\n'), start=1):
        content = b'{"step": 2, "loss": 0.5}\n' + damage + b'{"step": 4, "loss": 0.25}\n'
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl: line 2: found damaged text"):
            read_metrics(path)
        MetricsFile(path, 4, notes.append).write({"step": 6, "loss": 0.1})
        assert [line["step"] for line in read_metrics(path)] == [2, 4, 6]
        name = "metrics.jsonl.damaged" + ("2" if number == 2 else "")
        assert (tmp_path / name).read_bytes() == content and notes[-1].endswith(f"kept as {name}")
    assert len(notes) == 2


def test_a_line_that_cannot_be_written_is_written_later(tmp_path):
    """A disk that takes a line and a half is told once, half a line is never left, and the lines come in their order
    when there is room."""
    path, notes = tmp_path / "metrics.jsonl", []
    file, limits = MetricsFile(path, 0, notes.append), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (18, limits[1]))
    try:
        for step in (1, 2, 3):
            file.write({"step": step})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"step": 1}\n'
    assert len(notes) == 1 and "metrics.jsonl cannot be written (File too large)" in notes[0]
    file.write({"step": 4})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("stage", stages_of(), ids=lambda stage: stage.name)
def test_defaults_are_readable_and_unknown_keys_are_not(stage):
    """The default config of a stage builds its settings; unknown and nonsensical values name their place."""
    config = default_config(stage.name, steps=30)
    settings = stage_settings(stage, config)
    assert settings.run.steps == settings.optimizer.steps == 30
    assert settings.objective == stage.settings() and settings == stage_settings(stage, config.to_dict())
    field = dataclasses.fields(stage.settings)[0].name
    for change, match in [
        ({"learning_rat": 1}, rf"config\.stages\.{stage.name}.*learning_rat.*learning_rate"),
        ({"objective": {field[:-1]: 1}}, rf"objective.*{field}"),
        ({"muon": {"momentun": 1}}, r"muon.*momentum"),
        ({"log_every": 0}, "log_every"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"rows": 0}, rf"config\.stages\.{stage.name}\.rows: found 0, expected at least 1"),
        ({"freeze": ("codec",)}, rf"config\.stages\.{stage.name}\.freeze: found \['codec'\], expected towers"),
        ({"freeze": sorted(stage.trains)}, r"freeze: .*fewer than all"),
    ]:
        with pytest.raises(InputError, match=match):
            stage_settings(stage, {"steps": 30, **change})
    with pytest.raises(InputError, match="steps"):
        stage_settings(stage, {})
    with pytest.raises(InputError, match="planner"):
        stage_of("planner")


def test_nested_settings_are_built():
    """Mappings become settings of their own, and null switches caption drop off."""
    video = stage_settings(stage_of("video"), {"steps": 30, "objective": {"caption_drop": {"low": 0.2}}})
    assert video.objective.caption_drop.low == 0.2
    assert (
        stage_settings(stage_of("video"), {"steps": 30, "objective": {"caption_drop": None}}).objective.caption_drop
        is None
    )
    action = stage_settings(stage_of("action"), {"steps": 30, "objective": {"draws": 3}, "muon": {"steps": 3}})
    assert action.objective == ActionSettings(draws=3) and action.optimizer.muon.steps == 3


@dataclasses.dataclass(frozen=True)
class Camera:
    focal: float = 1.0


@dataclasses.dataclass(frozen=True)
class OtherSettings:
    """Settings of another family, one of whose fields has the name of a field of the world model's."""

    video: Camera = dataclasses.field(default_factory=Camera)
    muon: Camera | None = None
    plain: dict | None = None


def test_a_field_is_built_from_its_own_type():
    """What is nested follows from the dataclass, not from the field's name; its unknown keys name their place."""
    found = build(OtherSettings, {"video": {"focal": 2.0}, "muon": {"focal": 3.0}, "plain": {"focal": 4.0}}, "config.x")
    assert found == OtherSettings(Camera(2.0), Camera(3.0), {"focal": 4.0})
    assert build(OtherSettings, {"muon": None}, "config.x").muon is None
    with pytest.raises(InputError, match=r"config\.x\.video: found unknown key 'fokal', .*nearest: 'focal'"):
        build(OtherSettings, {"video": {"fokal": 2.0}}, "config.x")


def test_architecture_survives_json():
    """The model rebuilt from its JSON is the model; dtype and remat are no part of it."""
    model = build_model({"variant": "micro", "overrides": {"layers": 3}, "remat": "full"}, views=2)
    record = json.loads(json.dumps(architecture(model)))
    assert model.variant.layers == 3 and model.remat == "full"
    assert model_of(record) == WorldAction(variant("micro", {"layers": 3}), views=2)
    for config, match in [
        ({"variant": "micro", "width": 3}, "unknown key 'width'"),
        ({"overrides": {}}, "variant"),
        ({"variant": "micro", "dtype": "int8"}, "int8"),
        ({"variant": "micro", "remat": True}, r"remat: found True, expected one of .*'branches'"),
    ]:
        with pytest.raises(InputError, match=match):
            build_model(config, views=2)


def test_prefetching_keeps_order_and_stops():
    """Batches come in order; an error comes where it happened; leaving early closes the source."""
    sharding = batch_sharding(make_mesh("laptop"))

    def source(count, error=None):
        for number in range(count):
            yield np.full((2, 3), number)
        if error:
            raise error

    with Prefetcher(source(5), sharding) as batches:
        assert [int(batch[0, 0]) for batch in batches] == [0, 1, 2, 3, 4]
    with Prefetcher(source(1, InputError("frames", "x", "y")), sharding) as batches:
        assert int(next(batches)[0, 0]) == 0
        with pytest.raises(InputError, match="frames"):
            next(batches)
    closed = []

    def endless():
        try:
            yield from source(10**9)
        finally:
            closed.append(True)

    with Prefetcher(endless(), sharding) as batches:
        next(batches)
    assert closed


def test_plain_lines_for_logs():
    """Start, then one line a report with its numbers."""
    file = io.StringIO()
    reporter = PlainReporter(file)
    reporter.start("video", 4, 20)
    reporter.advance(5)
    reporter.report({"step": 6, "stage": "video", "loss": 0.5, "heldout_loss": 0.25, "tokens_per_s": 1234.0})
    reporter.note("a change")
    lines = ["stage video: from step 4 to 20", "video 6/20  loss 0.5000  heldout 0.2500  1.2k tokens/s", "a change"]
    assert file.getvalue().splitlines() == lines
    assert summary({"loss": None}) == ""
