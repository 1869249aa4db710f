"""The options of a language block, against the same equations written out in numpy; sizes that do not fit are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.language import LanguageBlock, LanguageSizes, causal_context, empty_key_values
from wallwm_jax.nn.parameters import unbox

QWEN3 = {"layers": 1, "embed": 12, "heads": 4, "key_heads": 2, "mlp": 20, "head_dim": 6}
OPTIONS = {
    "qwen3": {},
    "qwen2.5": {"qkv_bias": True, "qk_norm": False},
    "bias and norm": {"qkv_bias": True},
    "neither": {"qk_norm": False},
    "rope base": {"rope_base": 50.0},
    "epsilon": {"epsilon": 0.3},
}
LENGTH = 5


def block_of(name):
    """A block, its randomised parameters, a sequence and the block's output for it."""
    sizes = LanguageSizes(**{**QWEN3, **OPTIONS[name]})
    block, rng = LanguageBlock(sizes), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, LENGTH, sizes.embed)), jnp.float32)
    places = jnp.repeat(jnp.arange(LENGTH)[None, :, None], 3, -1)
    context = causal_context(places, sizes, jnp.ones((1, LENGTH), bool), 0)
    stored = jax.tree.map(lambda part: part[0], empty_key_values(sizes, 1, LENGTH))
    fresh = unbox(block.init(jax.random.key(0), x, stored, context))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype("f"), fresh)
    found, _ = block.apply({"params": params}, x, stored, context)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    return sizes, params, np.asarray(x[0], np.float64), np.asarray(found[0])


def reference(sizes, params, x):
    """Qwen's block on one sequence [N, embed], as its authors' equations say; float64."""

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + sizes.epsilon) * scale

    def rotated(x):
        half = sizes.head_dim // 2
        frequencies = sizes.rope_base ** (-np.arange(half) / half)
        angles = np.arange(len(x))[:, None, None] * frequencies
        first, second = x[..., :half], x[..., half:]
        turned = first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)
        return np.concatenate(turned, -1)

    inner, heads = norm(x, params["attention_norm"]["scale"]), {}
    for name in ("query", "key", "value"):
        heads[name] = np.einsum("ne,ehd->nhd", inner, params[name]["weight"])
        if sizes.qkv_bias:
            heads[name] = heads[name] + params[name]["bias"]
    for name in ("query", "key"):
        if sizes.qk_norm:
            heads[name] = norm(heads[name], params[f"{name}_norm"]["scale"])
        heads[name] = rotated(heads[name])
    groups, mixed = sizes.heads // sizes.key_heads, []
    for head in range(sizes.heads):
        scores = heads["query"][:, head] @ heads["key"][:, head // groups].T / np.sqrt(sizes.head_dim)
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ heads["value"][:, head // groups])
    x = x + np.einsum("hnd,hde->ne", np.stack(mixed), params["output"]["weight"])
    inner, mlp = norm(x, params["mlp_norm"]["scale"]), params["mlp"]
    gate = inner @ mlp["gate"]["weight"]
    return x + (gate / (1 + np.exp(-gate)) * (inner @ mlp["up"]["weight"])) @ mlp["down"]["weight"]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_block_is_what_the_equations_say(name):
    """Every option by itself, on random parameters (1e-5 of the output's scale: fp32 against float64). The options have
    the parameters that they need and no others."""
    sizes, params, x, found = block_of(name)
    expected = reference(sizes, params, x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert ("bias" in params["query"]) == sizes.qkv_bias and ("query_norm" in params) == sizes.qk_norm
    assert "bias" not in params["output"]


def test_every_option_changes_the_output():
    """On the same parameters, where two blocks have the same ones."""
    _, params, x, _ = block_of("qwen3")
    base = reference(LanguageSizes(**QWEN3), params, x)
    for name in ("neither", "rope base", "epsilon"):
        other = reference(LanguageSizes(**{**QWEN3, **OPTIONS[name]}), params, x)
        assert np.abs(other - base).max() > 1e-3, name


BAD = {
    "key_heads": {"key_heads": 3},
    "embed": {"embed": 13, "head_dim": None},
    "head_dim": {"head_dim": 5},
    "sections": {"sections": (1, 1, 2)},
}


@pytest.mark.parametrize("field", BAD)
def test_sizes_that_do_not_fit_are_refused(field):
    """By the field's name; the sizes that differ in that one thing are accepted."""
    assert LanguageSizes(**QWEN3).sections == (3, 0, 0)
    with pytest.raises(InputError, match=f"^{field}"):
        LanguageSizes(**{**QWEN3, **BAD[field]})
