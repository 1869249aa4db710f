"""Metrics are a table: each stands in the report and in metrics.json by its own row."""

import dataclasses

import pytest

from tests.evaluate.clipping_metric import CLIPPING
from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.metric import Measured, Metric, check_names
from wallwm_jax.evaluate.metrics import METRICS
from wallwm_jax.evaluate.report import render
from wallwm_jax.evaluate.results import metrics


def with_metric(evaluation, metric, value):
    return dataclasses.replace(evaluation, measured=[*evaluation.measured, Measured(metric, value)])


def test_a_metric_adds_to_the_report_and_changes_nothing_else(evaluation):
    """Its section and its tile appear, its value stands under `detail`, and all other content is as it was."""
    plain = evaluation(16)
    added = with_metric(plain, CLIPPING, {"events": 9, "clipped": 4})
    content, before = metrics(added), metrics(plain)
    assert content["detail"].pop("clipping") == {"events": 9, "clipped": 4}
    assert content == before
    page, old = render(added), render(plain)
    for text in ("Beyond the limits", "<td>9</td><td>4</td>", '<div class="tile"><b>4</b><span>clipped</span></div>'):
        assert text in page and text not in old


def test_a_metric_without_a_value_is_null(evaluation):
    """The report leaves it out, metrics.json says null."""
    empty = with_metric(evaluation(16), CLIPPING, None)
    assert metrics(empty)["detail"]["clipping"] is None
    assert render(empty) == render(evaluation(16))


def test_metrics_do_not_overwrite_each_other(evaluation):
    """Two of one name, and one that claims another's key of metrics.json."""
    with pytest.raises(InputError, match="metrics: found two with the name 'video'"):
        check_names([*METRICS, Metric("video", lambda judged: None)])
    rival = Metric("rival", lambda judged: None, plain=lambda name, value: {"detail": {"length": 1}})
    with pytest.raises(InputError, match=r"metric rival: found key 'length' of metrics\.json"):
        metrics(with_metric(evaluation(16), rival, 1))
