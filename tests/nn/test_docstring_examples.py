"""The examples in the docstrings run as they stand, and give arrays of the shapes that their comments say."""

import inspect
import re
import textwrap

import jax
import jax.numpy as jnp
import pytest

from wallwm_jax.nn import staircase, text_encoder, video_codec, vision_language
from wallwm_jax.nn.parameters import unbox

EXAMPLES = {
    "text encoder": text_encoder.TextEncoder,
    "trunk": vision_language.VisionLanguageTrunk,
    "staircase": staircase.Staircase,
    "codec": video_codec,
}
SHAPE = re.compile(r"(\w+) = .*# \[([\d, ]+)\]")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_has_the_shapes_it_says(name):
    """Ten lines or so; finite numbers that are not all alike, unless the input is."""
    modules = (vision_language, staircase, text_encoder, video_codec)
    names = {key: value for module in modules for key, value in vars(module).items() if not key.startswith("_")}
    names |= {"jax": jax, "jnp": jnp, "unbox": unbox}
    lines = [line for line in inspect.getdoc(EXAMPLES[name]).splitlines() if line.startswith("    ")]
    code = textwrap.dedent("\n".join(lines))
    assert 4 <= len(lines) <= 12
    exec(code, names)
    said = SHAPE.findall(code)
    assert said
    for variable, shape in said:
        found = names[variable]
        assert found.shape == tuple(int(size) for size in shape.split(",")), variable
        assert jnp.isfinite(found).all() and (name == "codec" or jnp.std(found) > 0)
