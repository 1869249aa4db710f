"""A metric as somebody outside the package would write it: how many of the predicted numbers were beyond the limits."""

from wallwm_jax.evaluate import page
from wallwm_jax.evaluate.metric import Judged, Metric


def _compute(judged: Judged) -> dict[str, float]:
    clipped = [prediction.clipped for prediction in judged.result.predictions]
    return {"events": len(clipped), "clipped": sum(clipped)}


def _section(value: dict[str, float]) -> str:
    rows = [[page.escape(value["events"]), page.escape(value["clipped"])]]
    return page.section("Beyond the limits", "Numbers that were clipped.", page.table(["events", "clipped"], rows))


CLIPPING = Metric("clipping", _compute, section=_section, tiles=lambda value: [(str(value["clipped"]), "clipped")])
