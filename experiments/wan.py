"""Stage 1 of WALL-WM at the sizes of Wan, to be planned before anybody pays for a pod, and launched on one.

    wallwm plan --config experiments/wan.py:5b --topology v5p:4x4x4     # minutes of compiling, no accelerator
    wallwm plan --config experiments/wan.py:14b --topology v5p:8x8x16 --set data.rows=1024
    experiments/launch/README.md                                        # how to launch it

"5b" has the towers of Wan2.2-TI2V-5B, "14b" those of Wan2.1-14B. Nobody has trained either with this library: rates and
steps below are starting points, not findings.

What decides the size of a step:

* Rows. `data.rows` is the global batch, one row a device on the 64 chips of v5p:4x4x4. A row is `row_frames` latent
  slots of `views` cameras, 256 x 256 pixels each: 34 x 3 x (16 / 2)^2 = 6,528 tokens for "5b", and with cells of 8
  pixels 17 x 3 x (32 / 2)^2 = 13,056 for "14b". A slot of three views has 192 tokens, of which 8,192 is no multiple:
  43 slots (`--set data.row_frames=43`), 8,256 tokens a chip, come nearest; four views have it exactly
  (`--views 4 --set data.row_frames=32`). More rows than a device has memory for: `stages.video.accumulate` = n takes a
  device's rows in n parts, one after the other, for one update.
* Frames. `max_latent_frames` 17 is an event of 65 sampled frames, 129 raw ones at stride 2 (one reading of WALL-WM
  3); the 34 slots of "5b" hold two of the longest, or as many as 8 shorter ones.
* Captions. 64 tokens hold a sentence. Wan pads to 512; a mask keeps attention from padding, so that it adds nothing.
* Text encoder. UMT5-XXL's size, and frozen (`stages.video.freeze`), as the paper's pretrained one is: it runs forward
  on captions, without gradients, moments or average. Its weights are not read yet; to train it from fresh ones, as the
  tabletop's small one is, `--set "stages.video.freeze=()"`.
* Memory. Master parameters, moments and the average are fp32; products are bf16; each block is recomputed in the
  backward pass (`remat` "full"; "branches" and "dots" keep more and compute less, "none" keeps all).
  `stages.video.offload_optimizer` = True keeps the moments in the hosts' memory between steps.
* Optimizer. Muon on every declared matrix that is trained, with bf16 products, on Gram matrices where that takes fewer
  operations ("cheapest"), each matrix on one device.

"5b" encodes frames with a Haar codec of the same compression and channels as Wan2.2's VAE. Wan2.1's rows have no codec:
`wallwm plan` plans them on latents, and training them needs one.
"""

import dataclasses

import ml_collections

from wallwm_jax.data.curation.window_clusters import WindowIndexSettings
from wallwm_jax.data.planning import PlanSettings
from wallwm_jax.data.settings import HistorySettings
from wallwm_jax.train.defaults import default_config, default_model, default_reasoner

VARIANTS = {"5b": "wan2.2-5b", "14b": "wan2.1-14b"}
PIXELS_A_CELL = {"5b": 16, "14b": 8}


def get_config(arg: str = "5b") -> ml_collections.ConfigDict:
    if arg not in VARIANTS:
        raise ValueError(f"experiments/wan.py: found argument {arg!r}, expected one of {sorted(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.mesh = "pod"
    config.workers = 8
    config.checks = False  # of every batch: shapes, dtypes, finite numbers

    config.dataset = ml_collections.ConfigDict()
    config.dataset.root = "datasets/robots"
    config.dataset.record_plan = ""
    config.dataset.record_episodes = 0
    config.dataset.embodiment = "data_specs/embodiments/tabletop.json"
    config.curation = ml_collections.ConfigDict({"vision_language_clusters": 64, "action_clusters": 256, "threads": 16})

    config.data = ml_collections.ConfigDict()
    config.data.rows = 64
    config.data.row_frames = {"5b": 34, "14b": 17}[arg]
    config.data.segments = 8
    config.data.max_latent_frames = 17
    config.data.frame_stride = 2
    config.data.text_length = 64
    config.data.anchor_jitter = 0.0
    config.data.spatial_compression = PIXELS_A_CELL[arg]
    config.data.balance = True
    config.data.resolutions = ()

    config.model = default_model(VARIANTS[arg], dtype="bfloat16", remat="full")

    config.planning = ml_collections.ConfigDict(dataclasses.asdict(PlanSettings(rows=64)))
    config.reasoner = default_reasoner("tiny", dtype="bfloat16")
    history = HistorySettings(history_latents=4, future_latents=4, text_length=144)
    config.windows = ml_collections.ConfigDict()
    config.windows.loader = ml_collections.ConfigDict({"row_frames": 36, "history": dataclasses.asdict(history)})
    config.windows.index = ml_collections.ConfigDict(dataclasses.asdict(WindowIndexSettings()))

    config.recipe = ("video", "action")
    config.stages = ml_collections.ConfigDict()
    for name in ("video", "action", "backbone", "conditioner", "staircase", "adaptation"):
        config.stages[name] = default_config(name)
        config.stages[name].steps = 50_000
        config.stages[name].warmup_steps = 1_000
        config.stages[name].learning_rate = 2e-4
        config.stages[name].adamw_learning_rate = 1e-4
        config.stages[name].ema_decay = 0.9999
        config.stages[name].eval_every = 1_000
        config.stages[name].checkpoint_every = 1_000
        config.stages[name].muon.products = "bfloat16"
        config.stages[name].muon.iteration = "cheapest"
        config.stages[name].muon.exact_steps = 0  # as the README's numbers of one GPU were measured; a mesh takes none
    config.stages.video.objective.time_shift = 5.0
    config.stages.video.freeze = ("text_encoder",)
    config.stages.adaptation.objective.action = config.stages.action.objective

    config.evaluate = ml_collections.ConfigDict()
    config.evaluate.video_steps = 50
    config.evaluate.action_steps = 10
    config.evaluate.samples = 1
    config.evaluate.buckets = (5, 9, config.data.max_latent_frames)
    config.evaluate.rows = 64
    config.evaluate.video_events = 64
    config.evaluate.protocol = "data_specs/protocols/tabletop.json"
    config.evaluate.closed_loop_episodes = 0

    # What a dataset would say; `wallwm plan` reads no data.
    config.plan = ml_collections.ConfigDict({"views": 3})
    return config
