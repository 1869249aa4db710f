"""The metrics of an evaluation as a table. A metric is a file with a `Metric`, and a row here."""

from wallwm_jax.evaluate.length_metric import LENGTH
from wallwm_jax.evaluate.metric import Metric
from wallwm_jax.evaluate.verb_metric import VERBS
from wallwm_jax.evaluate.video_metric import VIDEO

METRICS: tuple[Metric, ...] = (VERBS, VIDEO, LENGTH)
"""In the order of the report."""
