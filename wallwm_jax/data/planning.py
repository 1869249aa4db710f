"""Moments of episodes as a planner sees them: sampled as arithmetic on (seed, i), with every label that there is.

A moment is a frame of an event, or the frame at which all is done and "nothing" comes next. Its prompt holds the
instruction and the captions of the latest past events; its labels are the event's caption, the time that remains of it,
and a trace. Beside recorded episodes there may be plans in words alone (`plans.jsonl`): they teach the order of events
and show no picture.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION, PlanBatch
from wallwm_jax.data import text, tokenizer, traces
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.tokenizer import CaptionTokenizer, padded
from wallwm_jax.data.traces import Name

TOKENIZER, PLANS = "tokenizer.json", "plans.jsonl"
_WORDS_PER_DRAW = 8  # two Philox blocks


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How moments are drawn and how long their texts may be, in tokens.

    Attributes:
      rows: moments a batch.
      memory_events: past events that a prompt names, the latest ones.
      start_share: share of the moments that are the first frame of their event, where the next event is asked for.
      text_share: share of the moments that come from plans in words, if there are any.
      blank_share: share of the prompts without instruction and memory: someone else says what the event is.
    """

    rows: int = 16
    prompt_length: int = 128
    caption_length: int = 12
    trace_length: int = 44
    notes_length: int = 32
    memory_events: int = 10
    start_share: float = 0.5
    text_share: float = 0.5
    blank_share: float = 0.1

    def __post_init__(self):
        for field in ("rows", "prompt_length", "caption_length", "trace_length", "notes_length"):
            if getattr(self, field) < 1:
                raise InputError(f"planning.{field}", getattr(self, field), "at least 1")
        if self.memory_events < 0:
            raise InputError("planning.memory_events", self.memory_events, "0 or more")
        for field in ("start_share", "text_share", "blank_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"planning.{field}", getattr(self, field), "a share from 0 to 1")

    @classmethod
    def from_config(cls, config: Section) -> "PlanSettings":
        """From a config's `planning` section; an unknown key is refused."""
        check_keys(config, {field.name for field in dataclasses.fields(cls)}, "config.planning")
        return cls(**dict(config))


class PlannedEvent(NamedTuple):
    """One event of a plan. `row` is -1 and the frames are 0 where it is known in words alone."""

    caption: str
    name: Name
    row: int = -1
    start: int = 0
    end: int = 0


class Plan(NamedTuple):
    """An instruction and its events in order. `episode` is -1 for a plan in words."""

    episode: int
    instruction: str
    events: tuple[PlannedEvent, ...]


class Moment(NamedTuple):
    """A frame of event `number` of a plan, or with the number of its events the frame at which all is done. `blank`
    leaves the instruction and the memory out of the prompt."""

    plan: Plan
    number: int
    frame: int
    blank: bool = False

    @property
    def event(self) -> PlannedEvent | None:
        """None when all is done."""
        return self.plan.events[self.number] if self.number < len(self.plan.events) else None


def episode_plans(curated: CuratedDataset, split: str | None = None) -> list[Plan]:
    """The plan behind every episode of a split, events in the order in which they happened."""
    columns = curated.index.columns
    tasks = {int(columns["episode"][row]): str(columns["caption"][row]) for row in curated.index.select(None, "task")}
    events: dict[int, list[PlannedEvent]] = {}
    for row in curated.index.select(split):
        name = tuple(str(columns[part][row]) for part in ("verb", "object", "target"))
        spans = int(row), int(columns["start"][row]), int(columns["end"][row])
        events.setdefault(int(columns["episode"][row]), []).append(
            PlannedEvent(str(columns["caption"][row]), name, *spans)
        )
    ordered = {episode: sorted(found, key=lambda event: event.start) for episode, found in events.items()}
    return [Plan(episode, tasks.get(episode, ""), tuple(found)) for episode, found in sorted(ordered.items())]


def read_plans(path: str | pathlib.Path) -> list[Plan]:
    """Plans in words, one JSON object a line: {"instruction", "events": [{"caption", "verb", "object", "target"}]}.

    Raises InputError naming the line and the field that is wrong.
    """
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError as error:
        raise InputError(str(path), error, "a readable file of plans") from error
    plans = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            events = tuple(
                PlannedEvent(event["caption"], (event["verb"], event["object"], event.get("target") or ""))
                for event in fields["events"]
            )
            plans.append(Plan(-1, fields["instruction"], events))
        except (ValueError, KeyError, TypeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: line {number}", found, "an instruction and its events") from error
    return plans


def surprises(plans: Sequence[Plan], least: float = 0.05) -> Float[np.ndarray, "n"]:
    """Weights of every place of every plan, its end last: how little the event before foretells what comes, -log p of
    the followers' frequencies in these plans, but not less than `least`.

    Most events follow from the one before; what an instruction is needed for is the start of the next task. Drawn
    evenly, plans in words would spend six draws of seven on what the pictures teach anyway.
    """
    names = [[None, *(event.name for event in plan.events), "end"] for plan in plans]
    pairs = Counter(pair for row in names for pair in itertools.pairwise(row))
    before = Counter(name for row in names for name in row[:-1])
    surprise = {pair: -np.log(count / before[pair[0]]) for pair, count in pairs.items()}
    return np.array([max(surprise[pair], least) for row in names for pair in itertools.pairwise(row)])


class PlanLoader:
    """Random access to batches of moments: `loader[step]` is this process's rows of batch `step`, a function of (seed,
    step). Moments of plans in words are drawn in proportion to their surprise, others evenly over events."""

    def __init__(
        self,
        curated: CuratedDataset,
        settings: PlanSettings,
        text_length: int,
        *,
        seed: int,
        split: str,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if settings.rows % process_count:
            raise InputError("planning.rows", settings.rows, f"a multiple of the {process_count} processes")
        self._share = settings.rows // process_count
        self._first = process_index * self._share
        self.curated, self.settings, self.text_length, self.seed = curated, settings, text_length, seed
        self.plans = [plan for plan in episode_plans(curated, split) if plan.events]
        if not self.plans:
            raise InputError(f"{curated.root}: events of split {split!r}", "none", "at least one")
        words = curated.root / PLANS
        self.words = read_plans(words) if split == "train" and settings.text_share and words.is_file() else []
        self._places = [(plan, number) for plan in self.plans for number in range(len(plan.events) + 1)]
        self._word_places = [(plan, number) for plan in self.words for number in range(len(plan.events) + 1)]
        self._surprise = np.cumsum(surprises(self.words)) if self.words else None
        self.writer = PlanWriter(curated, settings, text_length)
        for plan in [*self.plans, *self.words]:
            self.writer.check(plan)

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> PlanBatch:
        first = int(step) * self.settings.rows + self._first
        return self.writer.batch([self.draw(i) for i in range(first, first + self._share)])

    def draw(self, i: int) -> Moment:
        """Moment i."""
        words = np.random.Philox(key=self.seed, counter=2 * i).random_raw(_WORDS_PER_DRAW)
        kind, place, start, frame, blank = (words[:5] >> np.uint64(11)) * 2.0**-53
        in_words = bool(self._word_places) and kind < self.settings.text_share
        if in_words:
            chosen = np.searchsorted(self._surprise, place * self._surprise[-1], side="right")
            plan, number = self._word_places[min(int(chosen), len(self._word_places) - 1)]
        else:
            plan, number = self._places[int(place * len(self._places))]
        if number == len(plan.events):
            return self.writer.end(plan)
        event = plan.events[number]
        inside = 0 if in_words or start < self.settings.start_share else int(frame * (event.end - event.start))
        blank = not in_words and bool(blank < self.settings.blank_share)
        return Moment(plan, number, event.start + inside, blank)


def prompt_tokens(
    tokens: CaptionTokenizer, instruction: str, done: Sequence[str], memory_events: int, blank: bool = False
) -> list[int]:
    """The ids of a prompt: the instruction, the latest captions of what has been done, and the question for the next.

    `blank` leaves out all but the question.
    """
    said: list[int] = []
    if not blank:
        for part in (instruction, *done[max(0, len(done) - memory_events) :]):
            said += [*tokens.encode(part), tokenizer.DONE]
    return [tokenizer.INSTRUCTION, *said, tokenizer.NEXT]


class PlanWriter:
    """Writes moments of recorded episodes, and of plans in words, into the arrays of a `PlanBatch`."""

    def __init__(self, curated: CuratedDataset, settings: PlanSettings, text_length: int):
        self.curated, self.settings, self.text_length = curated, settings, text_length
        self.tokenizer = CaptionTokenizer.load(curated.root / TOKENIZER)
        self._encoded = self.tokenizer.encode

    @functools.cached_property
    def canonical(self) -> dict[Name, str]:
        """Canonical captions of the kinds of events that the training split has."""
        plans = episode_plans(self.curated, "train")
        return traces.canonical_captions((event.name, event.caption) for plan in plans for event in plan.events)

    def check(self, plan: Plan) -> None:
        """Raises InputError if a text of the plan is too long, at start-up rather than when it is drawn."""
        settings = self.settings
        moments = [Moment(plan, number, event.start) for number, event in enumerate(plan.events)]
        for moment in (*moments, self.end(plan)):
            for ids, length, field in (
                (self._prompt_ids(moment), settings.prompt_length, "prompt"),
                (self._caption_ids(moment), settings.caption_length, "caption"),
                (self._trace_ids(moment)[0], settings.trace_length, "trace"),
                (self._notes_ids(moment), settings.notes_length, "notes"),
            ):
                if len(ids) > length:
                    where = f"planning.{field}_length (instruction {plan.instruction!r}, event {moment.number})"
                    raise InputError(where, f"{len(ids)} tokens", f"at most {length}")

    def end(self, plan: Plan) -> Moment:
        """The moment at which all of a plan is done: an episode's frame after its last event, or its last one."""
        if plan.episode < 0:
            return Moment(plan, len(plan.events), 0)
        return Moment(plan, len(plan.events), min(plan.events[-1].end, self.curated.length(plan.episode) - 1))

    def batch(self, moments: Sequence[Moment]) -> PlanBatch:
        """One row a moment."""
        columns = [self._row(moment) for moment in moments]
        return PlanBatch(*(np.stack(values) for values in zip(*columns, strict=True)))

    def _row(self, moment: Moment) -> tuple:
        settings, event = self.settings, moment.event
        ids, missing = self._trace_ids(moment)
        trace, trace_mask = padded(ids, settings.trace_length, "trace")
        recorded = moment.plan.episode >= 0 and event is not None
        return (
            *self._pictures(moment),
            *padded(self._prompt_ids(moment), settings.prompt_length, "prompt"),
            *padded(self._caption_ids(moment), settings.caption_length, "caption"),
            np.bool_(not moment.blank),
            trace,
            trace_mask,
            trace_mask & ~np.pad(missing, (0, len(trace_mask) - len(missing))),
            *padded(self._notes_ids(moment), settings.notes_length, "notes"),
            *self._text(event.caption if event else None),
            *self._text(self.canonical.get(event.name, event.caption) if event else None),
            np.float32(event.end - moment.frame if recorded else 1.0),
            np.bool_(recorded),
            np.int32(event.row if event else -1),
            np.bool_(True),
        )

    def _text(self, caption: str | None) -> tuple:
        """In the text encoder's tokens; of no event none."""
        if caption is None:
            return np.zeros(self.text_length, np.int32), np.zeros(self.text_length, bool)
        return text.encode(caption, self.text_length)

    def _pictures(self, moment: Moment) -> tuple:
        curated, episode = self.curated, moment.plan.episode
        views, (height, width) = len(curated.views), curated.image_shape
        if episode < 0:
            blank = np.zeros((views, height, width, 3), np.uint8), np.zeros(views, bool)
            return *blank, np.zeros(UNIFIED_DIMENSION, np.float32), np.zeros(UNIFIED_DIMENSION, bool)
        state = curated.embodiment.encode_state(curated.state(episode)[moment.frame], curated.statistics)
        picture = np.asarray(curated.frame_map(episode)[moment.frame])
        return picture, np.ones(views, bool), state, curated.embodiment.dof_mask

    def _prompt_ids(self, moment: Moment) -> list[int]:
        done = [event.caption for event in moment.plan.events[: moment.number]]
        instruction, memory = moment.plan.instruction, self.settings.memory_events
        return prompt_tokens(self.tokenizer, instruction, done, memory, moment.blank)

    def _caption_ids(self, moment: Moment) -> list[int]:
        caption = moment.event.caption if moment.event else traces.NOTHING
        return [*self._encoded(caption), tokenizer.END]

    def _notes_ids(self, moment: Moment) -> list[int]:
        return self._encoded(traces.write_notes(self._stand(moment)))

    def _trace_ids(self, moment: Moment) -> tuple[list[int], Bool[np.ndarray, "n"]]:
        """Ids, and which of them stand where no label is: these are `<unknown>`."""
        trace = traces.write_trace(self._stand(moment))
        ids = [tokenizer.TRACE, *self._encoded(trace.text), tokenizer.END]
        missing = np.zeros(len(ids), bool)
        for place, (start, end) in enumerate(self.tokenizer.offsets(trace.text) if trace.missing else (), 1):
            missing[place] = any(start < last and first < end for first, last in trace.missing)
        ids = [tokenizer.UNKNOWN if unknown else number for number, unknown in zip(ids, missing, strict=True)]
        return ids, missing

    def _stand(self, moment: Moment) -> traces.Moment:
        def named(number: int) -> str:
            if not 0 <= number < len(moment.plan.events):
                return ""
            event = moment.plan.events[number]
            return self.canonical.get(event.name, event.caption)

        event, progress = moment.event, None
        if event is None:
            progress = 1.0
        elif moment.plan.episode >= 0:
            progress = (moment.frame - event.start) / (event.end - event.start)
        return traces.Moment(named(moment.number - 1), named(moment.number), progress, named(moment.number + 1))
