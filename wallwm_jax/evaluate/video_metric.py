"""The metric of dreams: PSNR and SSIM beside a frozen frame and the codec's own reconstruction."""

from wallwm_jax.evaluate import page
from wallwm_jax.evaluate.metric import Judged, Metric, Tile
from wallwm_jax.evaluate.video_quality import VideoQuality, video_quality


def _compute(judged: Judged) -> VideoQuality | None:
    """None if no event was dreamt to the end."""
    return video_quality(judged.frames) if judged.frames else None


def _tiles(video: VideoQuality) -> list[Tile]:
    gain = video.dream.moved_psnr - video.copy.moved_psnr
    return [(f"{gain:+.1f} dB", "dream against a frozen frame, on the pixels that moved")]


def _section(video: VideoQuality) -> str:
    explanation = (
        f"Over {video.images} images of {video.events} held-out events (last frame of every latent, every view). "
        "Most of a tabletop never moves, so a frozen frame scores well; the last column counts only the pixels that "
        "differ from the keyframe. The codec's own reconstruction of the truth is the ceiling."
    )
    named = (("dream", video.dream), ("copy of the keyframe", video.copy), ("codec ceiling", video.codec))
    rows = [
        [name, page.number(quality.psnr, 2), page.number(quality.ssim, 4), page.number(quality.moved_psnr, 2)]
        for name, quality in named
    ]
    return page.section("Video quality", explanation, page.table(["", "PSNR, dB", "SSIM", "PSNR, moved, dB"], rows))


VIDEO = Metric("video", _compute, section=_section, tiles=_tiles)
