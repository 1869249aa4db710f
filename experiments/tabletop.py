"""A world action model of the simulated tabletop, from recorded episodes to a report.

    wallwm run --config experiments/tabletop.py:demo --workdir runs/demo    # minutes, on data_specs/sample
    wallwm run --config experiments/tabletop.py --workdir runs/tabletop     # an hour's training, on 600 short episodes
    wallwm run --config experiments/tabletop.py:stages --workdir runs/tabletop    # all stages; goes on from the last

The last two record their episodes first (extra `sim`). All run on two CPU cores and go on where they were interrupted.
What they find stands in the README.
"""

import dataclasses

import ml_collections

from wallwm_jax.data.curation.window_clusters import WindowIndexSettings
from wallwm_jax.data.planning import PlanSettings
from wallwm_jax.data.settings import HistorySettings
from wallwm_jax.train.defaults import default_config, default_model, default_reasoner


def get_config(arg: str = "hour") -> ml_collections.ConfigDict:
    if arg not in ("demo", "hour", "stages"):
        raise ValueError(f"experiments/tabletop.py: found argument {arg!r}, expected 'demo', 'hour' or 'stages'")
    demo = arg == "demo"
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.mesh = "laptop"
    config.workers = 0
    config.checks = False  # of every batch: shapes, dtypes, finite numbers

    config.dataset = ml_collections.ConfigDict()
    config.dataset.root = "data_specs/sample" if demo else "datasets/scenes"
    config.dataset.record_plan = "scenes"
    config.dataset.record_episodes = 0 if demo else 600
    config.dataset.embodiment = "data_specs/embodiments/tabletop.json"

    config.curation = ml_collections.ConfigDict()
    # Many clusters of motions, on episodes enough to fill them, give a share of the draws to every place that is
    # reached for and moved to; with few, the motions that are always the same take it.
    config.curation.vision_language_clusters = 12 if demo else 8
    config.curation.action_clusters = 32 if demo else 96
    config.curation.threads = 4

    config.data = ml_collections.ConfigDict()
    config.data.rows = 4
    config.data.row_frames = 9
    config.data.segments = 4
    config.data.max_latent_frames = 4 if demo else 5
    config.data.frame_stride = 2
    config.data.text_length = 56
    config.data.anchor_jitter = 0.5
    config.data.spatial_compression = 8
    config.data.balance = True
    config.data.resolutions = ()  # picture sizes of training batches, one a batch; none: the recording's

    config.planning = ml_collections.ConfigDict(dataclasses.asdict(PlanSettings(rows=24)))
    config.reasoner = default_reasoner("tiny")

    # Stage 5's windows: two past latents, the present and a chunk of two latents, two windows a row.
    history = HistorySettings(history_latents=2, future_latents=2, share=0.75 if demo else 0.5, text_length=144)
    config.windows = ml_collections.ConfigDict()
    config.windows.loader = ml_collections.ConfigDict({"row_frames": 10, "history": dataclasses.asdict(history)})
    config.windows.index = ml_collections.ConfigDict(dataclasses.asdict(WindowIndexSettings()))

    config.model = default_model("tiny")

    # Both objectives regress the clean end of the flow: on so few steps the velocity's error at small t, which grows
    # with 1 / t^2, would drown what has to be learned at large t.
    config.recipe = {
        "demo": ("video", "action", "adaptation"),
        "hour": ("video", "action"),
        "stages": ("video", "action", "backbone", "conditioner", "staircase", "adaptation"),
    }[arg]
    config.stages = ml_collections.ConfigDict()
    config.stages.video = default_config("video")
    # The demo takes few steps on large batches, at twice the rates and with a shorter memory: Muon's lead over AdamW
    # grows with the batch, and it is paid for once a step.
    config.stages.video.rows = 16 if demo else None
    config.stages.video.steps = 100 if demo else 2000
    config.stages.video.warmup_steps = 20 if demo else 50
    config.stages.video.learning_rate = 2e-2 if demo else 1e-2
    config.stages.video.adamw_learning_rate = 8e-3 if demo else 4e-3
    config.stages.video.muon.momentum = 0.9 if demo else 0.95
    config.stages.video.objective.time_shift = 2.5 if demo else 5.0
    config.stages.video.objective.regressed = "clean"
    config.stages.action = default_config("action")
    config.stages.action.steps = 400 if demo else 4500
    config.stages.action.learning_rate = 5e-3
    config.stages.action.adamw_learning_rate = 3e-3
    config.stages.action.objective.draws = 3
    config.stages.action.objective.time_shift = 3.0
    config.stages.action.objective.regressed = "clean"
    # Actions read the video tower at pure noise: a tower trained for minutes knows more about what it sees and is told
    # than its dreams show, and a true future, however noisy, would teach the action tower to copy what it won't have.
    config.stages.action.objective.anchor_step = 0
    config.stages.action.objective.anchor_jitter = 0.0

    for name, steps in (("backbone", 900), ("conditioner", 900), ("staircase", 700)):
        config.stages[name] = default_config(name)
        config.stages[name].steps = steps
        config.stages[name].learning_rate = 1e-2
        config.stages[name].adamw_learning_rate = 3e-3
        config.stages[name].warmup_steps = 50

    config.stages.adaptation = default_config("adaptation")
    # Slowly, and on events as often as on chunks: event mode must keep the precision that grasps need.
    config.stages.adaptation.steps = 60 if demo else 500
    config.stages.adaptation.learning_rate = 3e-3 if demo else 3e-4
    config.stages.adaptation.adamw_learning_rate = 1e-3 if demo else 1e-4
    for part in ("video", "action"):
        config.stages.adaptation.objective[part] = config.stages[part].objective

    for stage in config.stages.values():  # the matrices are small, and the README's numbers were made so
        stage.muon.update({"iteration": "direct", "halves": False})

    config.evaluate = ml_collections.ConfigDict()
    config.evaluate.video_steps = 1
    config.evaluate.action_steps = 5
    config.evaluate.samples = 8
    config.evaluate.buckets = (3, config.data.max_latent_frames)
    config.evaluate.rows = 16
    config.evaluate.video_events = 48
    config.evaluate.protocol = "data_specs/protocols/tabletop.json"
    # In each of the protocol's cells.
    config.evaluate.closed_loop_episodes = 0 if demo else 12
    return config
