"""The report's section on the vision-language side."""

from collections.abc import Sequence

from wallwm_jax.evaluate import page
from wallwm_jax.evaluate.drop_in import DropInResult
from wallwm_jax.evaluate.language import LanguageResult


def render(results: Sequence[LanguageResult], sources: DropInResult | None) -> str:
    """A table with a row for each split, and what other sources of text do to the actions."""
    explanation = (
        "At the first frame of every event the caption head says what comes next, knowing the instruction and the "
        "events so far; verb and object must both be right. Baselines: always the most frequent kind of event, and the "
        "kind that most often follows the one before. The remaining time is asked for at several moments of every "
        "event; its mean error is a share of the mean event length, beside always saying half of the verb's mean "
        "length. Traces: share of the tokens that the frozen language model finds likeliest given the Staircase's "
        "latents and the tokens before."
    )
    head = ["split", "events", "next event", "majority", "bigram", "remaining time", "half the verb's", "trace tokens"]
    parts = [page.table(head, [_row(item) for item in results])]
    if sources is not None:
        lines = [f"{page.escape(name)} {error:.1f} mm" for name, error in sources.errors.items()]
        parts.append(f"<p>Mean distance of the arm from its targets, by source of the text: {', '.join(lines)}.</p>")
    return page.section("Does it know what comes next?", explanation, *parts)


def _row(result: LanguageResult) -> list[str]:
    following, time = result.following, result.time
    traces = ", ".join(f"{page.escape(name)} {share:.1%}" for name, share in result.traces.items())
    shares = [f"{share:.1%}" for share in (following.accuracy, following.majority, following.bigram)]
    times = [f"{share:.1%}" for share in (time.error, time.verb)]
    return [page.escape(result.split), str(following.events), *shares, *times, traces]
