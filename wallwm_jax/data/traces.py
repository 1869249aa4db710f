"""Reasoning traces: what has been done, what is going on and how far it is, and what comes next (WALL-WM eqs. 18-19).

    done: lift the red puck. now: move the red puck to the mat, 40 %. next: place the red puck on the mat.

Written from event annotations. The same event is always named in the same words, its *canonical* caption: which of many
wordings an annotator chose can't be seen in the scene, and what can't be known can't be reconstructed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PROGRESS_STEP = 10
"""Percent."""
NOTHING = "nothing"
_MISSING = "?"

Name = tuple[str, str, str]
"""Verb, object and target of an event."""


class Moment(NamedTuple):
    """Where an episode stands. None for a label that nobody has made; an empty string for no such event."""

    done: str | None
    now: str | None
    progress: float | None
    """Of the current event, 0 to 1."""
    next: str | None


class Trace(NamedTuple):
    """A trace as text. `missing` are the half-open spans of characters that hold no label."""

    text: str
    missing: tuple[tuple[int, int], ...]


def canonical_captions(events: Iterable[tuple[Name, str]]) -> dict[Name, str]:
    """The most frequent caption of every kind of event, the alphabetically first of equals."""
    counts: dict[Name, Counter[str]] = {}
    for name, caption in events:
        counts.setdefault(name, Counter())[caption] += 1
    return {name: min(found, key=lambda text: (-found[text], text)) for name, found in sorted(counts.items())}


def write_trace(moment: Moment) -> Trace:
    """The moment's trace."""
    progress = None if moment.progress is None else str(rounded_percent(moment.progress))
    parts = (
        ("done: ", _named(moment.done)),
        (". now: ", _named(moment.now)),
        (", ", progress),
        (" %. next: ", _named(moment.next)),
        (".", ""),
    )
    text, missing = "", []
    for words, value in parts:
        text += words
        if value is None:
            missing.append((len(text), len(text) + len(_MISSING)))
        text += _MISSING if value is None else value
    return Trace(text, tuple(missing))


def write_notes(moment: Moment) -> str:
    """The same in the fewest words; a missing label is left out. Of use to teach a language model to write traces."""
    progress = None if moment.progress is None else str(rounded_percent(moment.progress))
    parts = (_named(moment.done), _named(moment.now), progress, _named(moment.next))
    return "; ".join(part for part in parts if part is not None)


def rounded_percent(progress: float) -> int:
    """Percent to the nearest PROGRESS_STEP, kept within 0 and 100."""
    steps = 100 // PROGRESS_STEP
    return min(max(round(progress * steps), 0), steps) * PROGRESS_STEP


def trace_texts(captions: Sequence[str]) -> list[str]:
    """Traces that hold every caption in every place and every percentage: what a tokenizer should know."""
    steps = 100 // PROGRESS_STEP
    moments = [Moment(caption, caption, 0.0, caption) for caption in captions]
    moments += [Moment("", "", step / steps, "") for step in range(steps + 1)]
    return [write_trace(moment).text for moment in moments]


def _named(caption: str | None) -> str | None:
    return NOTHING if caption == "" else caption
