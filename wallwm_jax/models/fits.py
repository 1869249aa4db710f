"""Whether a model of some size can take pictures and windows: functions of shapes and settings alone.

The model calls `check_batch` when it is traced; whoever knows the shapes earlier can call these when a run starts.
"""

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.models.variants import Variant


def check_batch(variant: Variant, views: int, batch: EventBatch, cells: tuple[int, int]) -> None:
    """Raises InputError unless a model with `views` rows in its view tables can take the batch, whose latents have
    `cells` (rows, columns). Only shapes are looked at, which bound a window's length where a row holds only one."""
    check_views(batch.view_mask.shape[2], views)
    if batch.segment_mask.shape[1] == 1:
        check_window(variant, batch.frame_mask.shape[1] - 1)
    check_cells(variant, cells)
    if batch.border_mask.shape[-2:] != cells:
        found = "{} x {} cells in the border mask".format(*batch.border_mask.shape[-2:])
        raise InputError("data.spatial_compression", found, "{} x {}, as the latents have".format(*cells))
    if batch.frames is not None and variant.codec is not None:
        check_pictures(variant, batch.frames.shape[4:6], cells)
    guidance = variant.guidance_sizes(views)
    if batch.frames is None and (guidance.keyframe_reader or guidance.waypoints):
        expected = "pictures: keyframe reader and waypoints read them (each can be switched off in model.overrides)"
        raise InputError("frames", None, expected)


def check_views(views: int, table: int) -> None:
    """Raises InputError for more views than the view table has rows."""
    if views > table:
        raise InputError("views of the batch", views, f"at most {table}, the rows of the model's view table")


def check_cells(variant: Variant, cells: tuple[int, int]) -> None:
    """Raises InputError for latent cells that the patch does not divide."""
    if any(side % variant.patch or not side for side in cells):
        found, patch = "{} x {}".format(*cells), variant.patch
        raise InputError("latent cells", found, f"multiples of the model's patch of {patch} x {patch} cells")


def check_pictures(variant: Variant, pixels: tuple[int, int], cells: tuple[int, int]) -> None:
    """Raises InputError unless the variant's codec makes these cells (rows, columns) of pictures of `pixels` (height,
    width)."""
    side = variant.codec.spatial_compression
    expected = tuple(count * side for count in cells)
    if tuple(pixels) != expected:
        found, cell_names = "{} x {} pixels".format(*pixels), "{} x {}".format(*cells)
        wanted = "{} x {}: {} cells of {} pixels, the model's codec".format(*expected, cell_names, side)
        raise InputError("pictures", found, wanted)


def check_window(variant: Variant, future: int, history: int = 0) -> None:
    """Raises InputError for a window of `history` + 1 + `future` latent frames that E_tau has no rows for, one each:
    it has `max_latent_frames` + 1."""
    frames, rows = history + 1 + future, variant.max_latent_frames + 1
    if frames > rows:
        expected = f"at most {rows}: model.overrides.max_latent_frames is {rows - 1}"
        raise InputError("window", f"{frames} latent frames", expected)
