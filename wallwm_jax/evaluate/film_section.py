"""A filmstrip as a piece of the report."""

from wallwm_jax.evaluate import figures, page
from wallwm_jax.evaluate.results import Filmstrip

FILM_WIDTH, MAX_FRAME_WIDTH = 1016, 96
"""CSS pixels of a filmstrip's pictures, all views together, and of one frame at most."""


def render(film: Filmstrip, keyframe: bool = False) -> str:
    """Truth above dream, a strip a view; `keyframe` says that the first column is what was given."""
    columns = len(film.times)
    frame = min(MAX_FRAME_WIDTH, (FILM_WIDTH - 16 * len(film.views)) // (len(film.views) * columns) - 2)
    labels = [f"{seconds:.2f} s" for seconds in film.times]
    labels = ["keyframe", *labels[1:]] if keyframe else labels
    times = "".join(f'<span style="width:{frame + 2}px">{label}</span>' for label in labels)
    blocks = ['<div class="side"><em>truth</em><em class="ours">dream</em></div>']
    for view, name in enumerate(film.views):
        picture = figures.strip([film.truth[:: film.every, view], film.dream[:: film.every, view]])
        drawn = page.image(picture, "jpeg", f"{name}: truth over dream of {film.title}", (frame + 2) * columns - 2)
        blocks.append(f'<div><div class="view">{page.escape(name)}</div>{drawn}<div class="times">{times}</div></div>')
    head = f"<h3>“{page.escape(film.title)}”</h3><small>{page.escape(film.subtitle)}</small>"
    return f'<div class="film">{head}<div class="row">{"".join(blocks)}</div></div>'
