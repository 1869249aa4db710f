"""The report's section on rollouts."""

from collections.abc import Sequence

import numpy as np

from wallwm_jax.evaluate import figures, film_section, page
from wallwm_jax.evaluate.results import Filmstrip
from wallwm_jax.evaluate.rollouts import Rollout

SHOWN = 7
"""Pieces of which pictures are shown, spread over the episode."""


def render(rollouts: Sequence[Rollout]) -> str:
    """Each rollout's paths and pictures."""
    explanation = (
        "One held-out episode from beginning to end. At every event, or at every chunk, the model is shown what was "
        "really seen then and says how to go on: event mode once an event, for as long as it thinks the event lasts; "
        "unified mode a fixed number of control steps at a time, with its memory of what it saw before. Pictures are "
        "those at the ends of these pieces."
    )
    return page.section("Rollouts on recorded observations", explanation, *map(_rollout, rollouts))


def _rollout(rollout: Rollout) -> str:
    refused = sum(piece.failed for piece in rollout.pieces)
    note = (
        f"{len(rollout.pieces)} pieces; the arm ends {np.median(rollout.errors):.0f} mm off (median over pieces)"
        + f"; refused to act in {refused}" * bool(refused)
    )
    drawn = page.figure(figures.rollout(rollout), f"paths in {rollout.mode}")
    return f"<h3>{rollout.mode}: “{page.escape(rollout.instruction)}”</h3><p>{note}</p>{drawn}{_film(rollout)}"


def _film(rollout: Rollout) -> str:
    chosen = np.unique(np.linspace(0, len(rollout.pieces) - 1, SHOWN).round().astype(int))
    film = Filmstrip(
        title=f"{rollout.mode}, at the ends of {len(chosen)} pieces",
        subtitle="; ".join(rollout.pieces[place].text for place in chosen),
        views=rollout.views,
        times=[rollout.pieces[place].end / rollout.control_hz for place in chosen],
        every=1,
        frame_seconds=0.0,
        truth=rollout.frames[chosen],
        dream=rollout.dreams[chosen],
    )
    return film_section.render(film)
