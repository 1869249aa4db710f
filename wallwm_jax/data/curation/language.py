"""The language side of a curated dataset: plans in words, and the tokens of its captions."""

import pathlib
import shutil
from collections.abc import Sequence

from wallwm_jax.data import traces
from wallwm_jax.data.curation.events import EventRow
from wallwm_jax.data.planning import PLANS, TOKENIZER, read_plans
from wallwm_jax.data.tokenizer import CaptionTokenizer


def save_language(rows: Sequence[EventRow], source: pathlib.Path, output: pathlib.Path, vocabulary: int) -> None:
    """Copies `<source>/meta/plans.jsonl`, if there is one, and learns tokens from it and the training split's captions.

    Raises InputError naming a wrong line of the plans.
    """
    path = source / "meta" / PLANS
    plans = read_plans(path) if path.is_file() else []
    if plans:
        shutil.copy(path, output / PLANS)
    train = [row for row in rows if row.split == "train"]
    events = [((row.verb, row.object, row.target), row.caption) for row in train if row.level == "action"]
    canonical = traces.canonical_captions(events)
    texts = [row.caption for row in train] + traces.trace_texts(list(canonical.values()))
    texts += [plan.instruction for plan in plans] + [event.caption for plan in plans for event in plan.events]
    CaptionTokenizer.train(texts, vocabulary).save(output / TOKENIZER)
