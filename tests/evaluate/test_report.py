"""The report is one whole page, and metrics.json holds what it says."""

import dataclasses
import html
import html.parser
import json

import pytest

from wallwm_jax.evaluate.baselines import SCENE_RULE
from wallwm_jax.evaluate.report import render, write_report
from wallwm_jax.evaluate.results import heldout_at, metrics, write_metrics


class _Page(html.parser.HTMLParser):
    """Collects open tags (must end empty), external references and image kinds."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.references = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def changed(evaluation, **values):
    """The evaluation with other values of some metrics."""
    measured = [one._replace(value=values.get(one.metric.name, one.value)) for one in evaluation.measured]
    return dataclasses.replace(evaluation, measured=measured)


def without(evaluation, *names):
    return changed(evaluation, **dict.fromkeys(names))


def test_report_is_self_contained_and_small(evaluation, tmp_path):
    """Tags close in order, every reference is data inside the page, films of every view are there, under 5 MB."""
    path = tmp_path / "report.html"
    result = evaluation()
    write_report(result, path)
    text = path.read_text()
    page = _Page(text)
    assert page.stack == []
    assert page.references and all(reference.startswith("data:image/") for reference in page.references)
    assert "http://" not in text and "https://" not in text and "url(" not in text
    for kind, count in (("jpeg", 6 * 3 + 2 + 2 * 3), ("webp", 6)):
        assert sum(reference.startswith(f"data:image/{kind}") for reference in page.references) == count
    assert path.stat().st_size < 5e6
    assert list(tmp_path.iterdir()) == [path]
    for word in ("hold still", "mean trajectory", html.escape(SCENE_RULE), "codec ceiling"):
        assert word.lower() in text.lower()


def test_captions_are_escaped(evaluation):
    """A caption is data, not HTML."""
    result = evaluation(16)
    film = dataclasses.replace(result.filmstrips[0], title="<script>x</script>")
    assert "<script>" not in render(dataclasses.replace(result, filmstrips=[film]))


def test_the_closed_loop_is_shown_cell_by_cell(evaluation, tmp_path):
    """Task Progress and successes with their intervals, refusals by reason, protocol by name; in the JSON
    no film, and episodes one by one only where they are asked for."""
    text = render(evaluation(16))
    for words in (
        "61.5 (40.2 to 80.0)",
        "1 of 4 (5% to 70%)",
        "too &lt;fast&gt;: 3",
        "Protocol toy, version 3",
        "tour True",
    ):
        assert words in text
    write_metrics(evaluation(16), tmp_path / "metrics.json")
    read = json.loads((tmp_path / "metrics.json").read_text())["detail"]["closed_loop"]
    assert read["protocol"] == {"name": "toy", "version": 3} and read["cells"][0]["by_verb"]["reach"] == [2, 4]
    assert "films" not in read["cells"][0] and "details" not in read["cells"][0]
    whole = evaluation(16).closed_loop.plain(details=True)["cells"][0]
    assert "films" not in whole and list(whole["details"]) == [{"name": "a", "progress": 61.5}]


def test_rollouts_are_drawn_and_summed_up(evaluation, tmp_path):
    """Both modes' pieces, what was refused, the median error (30 mm along every axis), and the same in the JSON."""
    text = render(evaluation(16))
    for words in (
        "event mode: “tidy &lt;up&gt;”",
        "unified mode:",
        "10 pieces; the arm ends 52 mm off",
        "refused to act in 1",
    ):
        assert words in text
    write_metrics(evaluation(16), tmp_path / "metrics.json")
    read = json.loads((tmp_path / "metrics.json").read_text())["detail"]["rollouts"]
    assert set(read) == {"event mode", "unified mode"}
    assert read["event mode"]["end_median"] == pytest.approx(30 * 3**0.5) and read["event mode"]["pieces"] == 10


def test_report_without_optional_results_still_renders(evaluation):
    """A run without training history, simulator or video has a shorter page, not a broken one."""
    fewer = without(evaluation(16), "video", "length")
    empty = dataclasses.replace(
        fewer, closed_loop=None, curves=[], filmstrips=[], clusters=[], parameters=[],
        trajectories=[], end_points={}, rollouts=[],
    )  # fmt: skip
    assert _Page(render(empty)).stack == []
    assert metrics(empty)["video_loss_start"] is None
    assert metrics(empty)["detail"]["video"] is None is metrics(empty)["detail"]["length"]
    assert "codec ceiling" not in render(empty) and "How long is an event?" not in render(empty)


def test_metrics_hold_the_headline_numbers(evaluation, tmp_path):
    """Start is the held-out loss at step 50, end the last; verbs carry medians at the event's end with their unit."""
    result = evaluation(16)
    path = tmp_path / "metrics.json"
    write_metrics(result, path)
    read = json.loads(path.read_text())
    curve = result.curves[0]
    assert read["video_loss_start"] == pytest.approx(curve.heldout[curve.heldout_steps.index(50)])
    assert read["video_loss_end"] == pytest.approx(curve.heldout[-1])
    assert read["seconds"] == 161.0
    assert read["verbs"]["reach"] == {
        "ours": 20, "hold": 150, "mean": 60, "unit": "mm", "scene_dependent": True, "events": 20,
    }  # fmt: skip
    assert read["verbs"]["grasp"]["unit"] == "opening"


def test_heldout_loss_is_taken_at_or_after_the_step(evaluation):
    curve = dataclasses.replace(evaluation(16).curves[0], heldout_steps=[0, 40, 80], heldout=[3.0, 2.0, 1.0])
    assert heldout_at(curve, 50) == 1.0 and heldout_at(curve, 40) == 2.0 and heldout_at(curve, 81) is None
    assert heldout_at(None, 50) is None


def test_non_finite_numbers_become_null(evaluation, tmp_path):
    """JSON has no NaN: strict parsers must be able to read the file."""
    result = evaluation(16)
    video = result.value("video")
    video = dataclasses.replace(video, copy=dataclasses.replace(video.copy, moved_psnr=float("nan")))
    write_metrics(changed(result, video=video), tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text and json.loads(text)["detail"]["video"]["copy"]["moved_psnr"] is None
