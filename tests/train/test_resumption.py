"""What a run may go on with, and what a person has to say for it."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import FRAMES, INDEX, NUMBERS, WINDOWS
from wallwm_jax.data.planning import TOKENIZER
from wallwm_jax.train.checkpoint import CheckpointStore, Records
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.resumption import CHANGES, check_changes, data_sources, resumed_records
from wallwm_jax.train.state import TrainState

CONFIG = {
    "seed": 0,
    "mesh": "laptop",
    "data": {"rows": 4},
    "model": {"variant": "micro", "dtype": "float32"},
    "reasoner": {"variant": "micro"},
    "planning": {"rows": 2},
    "stages": {"video": {"steps": 6, "learning_rate": 0.1, "log_every": 10}, "backbone": {"steps": 3}},
}
RECORDS = Records(
    CONFIG, {"low": [0.5]}, {"views": ["front"]}, {"views": 2}, {INDEX: "aa", TOKENIZER: "bb", "plans.jsonl": "cc"}
)


def _save(directory, step, records=RECORDS):
    """A checkpoint of that step."""
    store, count = CheckpointStore(directory), jnp.asarray(step, jnp.int32)
    store.save(TrainState(count, count, count, {"weight": jnp.ones(3)}, {}, {}), records, {})
    store.close()


def _config(section, **values):
    return RECORDS._replace(config={**CONFIG, section: {**CONFIG[section], **values}})


def _stage(**values):
    return _config("stages", video={**CONFIG["stages"]["video"], **values})


DIFFERENT = [
    ("config", RECORDS._replace(config={**CONFIG, "seed": 1}), r"config\.seed: found 0, expected 1"),
    ("config", _stage(learning_rate=0.2), r"learning_rate: found 0\.1, expected 0\.2"),
    ("config", _stage(rows=8), r"video\.rows: found None, expected 8"),
    ("config", _stage(freeze=["text_encoder"]), r"video\.freeze: found \[\], expected \['text_encoder'\]"),
    ("data", _config("data", rows=8), r"config\.data\.rows: found 4, expected 8"),
    ("data", RECORDS._replace(sources={**RECORDS.sources, INDEX: "dd"}), r"sources\.index\.parquet: found aa"),
    (
        "tokenizer",
        RECORDS._replace(sources={**RECORDS.sources, TOKENIZER: "dd"}),
        r"sources\.tokenizer\.json: found bb",
    ),
    ("dtype", _config("model", dtype="bfloat16"), r"config\.model\.dtype: found float32"),
    ("model", RECORDS._replace(model={"views": 3}), r"model\.views: found 2, expected 3"),
    ("statistics", RECORDS._replace(statistics={"low": [0.4]}), r"statistics\.low: found \[0\.5\]"),
    ("embodiment", RECORDS._replace(embodiment={"views": ["top"]}), r"embodiment\.views: found \['front'\]"),
]


@pytest.mark.parametrize(("kind", "records", "match"), DIFFERENT)
def test_a_change_is_refused_unless_it_is_named(tmp_path, kind, records, match):
    """The message names field, both values and what would accept it; another name accepts nothing; the right one is
    recorded at the step, with the field, and stays recorded when the run goes on again."""
    stage = stage_of("video")
    _save(tmp_path, 4)
    with pytest.raises(InputError, match=rf"{match}.*--accept-change {kind}"):
        resumed_records(tmp_path, stage, records)
    with pytest.raises(InputError, match=match):
        resumed_records(tmp_path, stage, records, [name for name in CHANGES if name != kind])
    accepted = resumed_records(tmp_path, stage, records, [kind])
    ((field,),) = accepted.changes["4"].values()
    assert set(accepted.changes) == {"4"} and set(accepted.changes["4"]) == {kind} and " -> " in field
    _save(tmp_path, 5, accepted)
    assert resumed_records(tmp_path, stage, records) == accepted


def test_what_does_not_matter_may_change(tmp_path):
    """How often to report, the mesh, what the backward pass computes again, and other stages; a setting that the
    checkpoint does not have, at its default; an empty directory accepts everything; a name that is none is refused."""
    stage = stage_of("video")
    assert resumed_records(tmp_path, stage, RECORDS) is RECORDS
    _save(tmp_path, 4)
    other = _config("stages", video={**CONFIG["stages"]["video"], "log_every": 5}, backbone={"steps": 9})
    assert resumed_records(tmp_path, stage, other) == other
    told = _stage(freeze=[], muon={"momentum": 0.95})
    assert resumed_records(tmp_path, stage, told) == told
    resumed_records(tmp_path, stage, RECORDS._replace(config={**CONFIG, "mesh": "host"}))
    resumed_records(tmp_path, stage, _config("model", remat="full", unroll=2))
    resumed_records(tmp_path, stage, _config("model", cross_view=True, overrides={"layers": None}))
    with pytest.raises(InputError, match=r"config\.model\.overrides\.layers.*--accept-change model"):
        resumed_records(tmp_path, stage, _config("model", overrides={"layers": 3}))
    with pytest.raises(InputError, match=r"--accept-change: found 'statistic', expected one of"):
        check_changes(["statistic"])


def test_sources_are_what_a_stage_draws_from(tmp_path):
    """Event index, numbers and frames always, windows where a stage learns from them, the tokenizer on the side that
    has one; another byte is another fingerprint."""
    _write_curated(tmp_path)
    found = {name: data_sources(tmp_path, stage_of(name)) for name in ("video", "adaptation", "backbone")}
    always = {INDEX, NUMBERS, FRAMES}
    assert [set(sources) for sources in found.values()] == [always, always | {WINDOWS}, always | {TOKENIZER}]
    (tmp_path / INDEX).write_text("index.parquet?")
    assert data_sources(tmp_path, stage_of("video")) != found["video"]


def _write_curated(root):
    """The files of a curated dataset of two episodes, of which the arrays alone are real."""
    for name in (INDEX, WINDOWS, TOKENIZER):
        (root / name).write_text(name)
    np.savez(root / NUMBERS, action=np.ones((4, 26)))
    (root / FRAMES).mkdir()
    for episode in range(2):
        np.save(root / FRAMES / f"episode_{episode:06d}.npy", np.full((2, 1, 4, 4, 3), episode, np.uint8))


def _triple_actions(root):
    np.savez(root / NUMBERS, action=3 * np.ones((4, 26)))


def _invert_frames(root):
    frames = np.load(root / FRAMES / "episode_000001.npy", mmap_mode="r+")
    frames[1, 0, 2, 3] = 255 - frames[1, 0, 2, 3]
    frames.flush()


def _lose_frames(root):
    (root / FRAMES / "episode_000001.npy").unlink()


@pytest.mark.parametrize(
    ("change", "field"), [(_triple_actions, NUMBERS), (_invert_frames, FRAMES), (_lose_frames, FRAMES)]
)
def test_data_that_changed_is_refused_on_resuming(tmp_path, change, field):
    """Actions that were tripled, one inverted pixel and a lost episode: refused by field, found and expected, accepted
    by the name "data". Times of the files that were set back hide nothing."""
    stage, curated, checkpoints = stage_of("video"), tmp_path / "curated", tmp_path / "checkpoints"
    curated.mkdir()
    _write_curated(curated)
    whole = RECORDS._replace(sources=data_sources(curated, stage))
    _save(checkpoints, 4, whole)
    assert resumed_records(checkpoints, stage, whole._replace(sources=data_sources(curated, stage))) == whole
    times = {path: path.stat().st_mtime_ns for path in curated.rglob("*") if path.is_file()}
    change(curated)
    for path, time in times.items():
        if path.exists():
            os.utime(path, ns=(time, time))
    changed = whole._replace(sources=data_sources(curated, stage))
    match = rf"sources\.{field}: found {whole.sources[field]}, expected {changed.sources[field]} .*--accept-change data"
    with pytest.raises(InputError, match=match):
        resumed_records(checkpoints, stage, changed)
    assert list(resumed_records(checkpoints, stage, changed, ["data"]).changes["4"]) == ["data"]
