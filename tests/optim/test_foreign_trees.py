"""Muon on trees that are not ours: any container, names, axis orders and types, and inside Optax's wrappers."""

import dataclasses
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim import MuonSettings, muon, muon_table

GENERATOR = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(GENERATOR.normal(size=shape), dtype)


def gpt():
    layers = {
        f"h_{layer}": {
            "ln_1": {"scale": normal(8), "bias": normal(8)},
            "attn": {"c_attn": {"kernel": normal(8, 24), "bias": normal(24)}},
            "mlp": {"c_fc": {"kernel": normal(8, 16), "bias": normal(16)}},
        }
        for layer in range(2)
    }
    return {"wte": {"embedding": normal(11, 8)}, "wpe": normal(5, 8), **layers, "lm_head": {"kernel": normal(8, 11)}}


def scanned():
    return {
        "layers": {
            "norm": {"scale": normal(3, 8)},
            "up": {"kernel": normal(3, 8, 16), "gate": normal(3, 16)},
            "query": {"kernel": normal(3, 8, 2, 4), "bias": normal(3, 2, 4)},
        }
    }


def attention():
    return {
        "attention": {
            "query": {"kernel": normal(8, 2, 4), "bias": normal(2, 4)},
            "out": {"kernel": normal(2, 4, 8), "bias": normal(8)},
        }
    }


def convolutions():
    kernels = {f"conv{axes}": {"kernel": normal(*(2,) * (axes - 2), 4, 6)} for axes in (3, 4, 5)}
    return kernels | {f"conv{axes}t": {"weight": normal(6, 4, *(2,) * (axes - 2))} for axes in (3, 4, 5)}


def module_state():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=6, qkv_features=4, rngs=rngs)

    return nnx.state(Model(nnx.Rngs(0)), nnx.Param)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    kernel: jax.Array
    bias: jax.Array
    frozen: jax.Array | None


def record():
    return Weights(normal(4, 6), normal(6), None)


TREES = {
    "gpt": (gpt, {"h_0/attn/c_attn/kernel", "h_0/mlp/c_fc/kernel", "h_1/attn/c_attn/kernel", "h_1/mlp/c_fc/kernel"}),
    "scanned": (scanned, {"layers/up/kernel", "layers/query/kernel"}),
    "attention": (attention, {"attention/query/kernel", "attention/out/kernel"}),
    "convolutions": (convolutions, set(named_leaves(convolutions()))),
    "nnx": (
        module_state,
        {"linear/kernel", *(f"attention/{part}/kernel" for part in ("key", "out", "query", "value"))},
    ),
    "dataclass": (record, {"kernel"}),
    "bfloat16": (lambda: {"w": normal(4, 6, dtype=jnp.bfloat16), "b": normal(6, dtype=jnp.bfloat16)}, {"w"}),
    "stack without names": (lambda: [normal(3, 4, 6), normal(6)], {"0"}),
    "no rows": (lambda: {"w": jnp.zeros((0, 4)), "v": normal(4, 4)}, {"v"}),
    "empty": (dict, set()),
}


def same(found, expected, atol=1e-5):
    for (name, one), other in zip(named_leaves(found).items(), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", TREES)
def test_the_default_rule_finds_the_matrices(name):
    """Of every tree; embeddings, heads, norms, biases and what stacks them go to AdamW."""
    make, matrices = TREES[name]
    rows = [row | {"name": re.sub("/(raw_)?value$", "", row["name"])} for row in muon_table(make())]  # of nnx.Param
    assert {row["name"] for row in rows if row["optimizer"] == "muon"} == matrices
    assert all(row["optimizer"] == "adamw" for row in rows if row["name"] not in matrices)


@pytest.mark.parametrize("name", TREES)
def test_two_lines_work_under_jit_and_scan(name):
    """A jitted step and a scan of two keep structure, shapes and dtypes of parameters and state, and move every leaf
    that has numbers."""
    parameters = TREES[name][0]()
    optimizer = muon(1e-1)
    state = optimizer.init(parameters)
    gradients = jax.tree.map(jnp.ones_like, parameters)

    def step(carry, _):
        parameters, state = carry
        updates, state = optimizer.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), None

    (after, later), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=2))((parameters, state))
    assert jax.tree.structure((after, later)) == jax.tree.structure((parameters, state))
    for one, other in zip(jax.tree.leaves((after, later)), jax.tree.leaves((parameters, state)), strict=True):
        assert (one.shape, one.dtype) == (jnp.shape(other), jnp.asarray(other).dtype)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(parameters), strict=True):
        assert one.size == 0 or np.abs(np.asarray(one - other, np.float32)).max() > 1e-3


RULES = {
    "text in a prefix tree": {"attention": {"query": {"kernel": "d -> h hd", "bias": None}, "out": None}},
    "patterns": {"*/query/kernel": "d_model -> heads head_dim"},
    "function": lambda path, leaf: MuonDimensionNumbers(0, (1, 2)) if path.endswith("query/kernel") else None,
    "numbers": {
        "attention": {"query": {"kernel": MuonDimensionNumbers(-3, (-2, -1)), "bias": "[heads] head_dim"}, "out": None}
    },
}


@pytest.mark.parametrize("name", RULES)
def test_every_form_of_a_rule_says_the_same(name):
    """A tree or prefix of texts, path patterns, a function and dimension numbers give the update of the form that
    Optax has for it (1e-5), AdamW's part included."""
    parameters = attention()
    numbers = {"attention": {"query": {"kernel": MuonDimensionNumbers(0, (1, 2)), "bias": None}, "out": None}}
    equal(parameters, RULES[name], numbers)


def equal(parameters, rule, numbers, **settings):
    """Three steps of ours and of Optax's, configured alike."""
    chosen = MuonSettings(coefficients="keller_jordan", **settings)
    ours = muon(0.1, rule, chosen, weight_decay=0.05, adamw_learning_rate=0.02)
    theirs = optax.contrib.muon(
        0.1, weight_decay=0.05, consistent_rms=0.2, muon_weight_dimension_numbers=numbers, adam_learning_rate=0.02,
        nesterov=True,
    )  # fmt: skip
    table = {row["name"]: row["optimizer"] for row in muon_table(parameters, rule)}
    trees = []
    for optimizer in (ours, theirs):
        step, state, at = jax.jit(optimizer.update), optimizer.init(parameters), parameters
        for seed in range(3):
            generator = np.random.default_rng(seed)
            gradients = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype), at)  # noqa: B023
            updates, state = step(gradients, state, at)
            at = optax.apply_updates(at, updates)
        trees.append(named_leaves(at))
    found, expected = trees
    for path in found:  # Optax's Adam looks ahead (Nesterov) where its Muon does
        if table[path] == "muon":
            np.testing.assert_allclose(found[path], expected[path], atol=1e-5, err_msg=path)
    assert "muon" in table.values()


@pytest.mark.parametrize(
    ("shape", "text", "numbers"),
    [
        ((4, 6), "d_model -> d_ff", (0, 1)),
        ((6, 4), "d_ff <- d_model", (1, 0)),
        ((3, 4, 6), "layers | embed -> mlp", (1, 2)),
        ((2, 3, 6, 4), "a b | out <- in", (3, 2)),
        ((3, 4, 6), "k cin -> cout", ((0, 1), 2)),
        ((2, 3, 4, 6), "kh kw cin -> cout", ((0, 1, 2), 3)),
        ((6, 4, 2, 3), "cout <- cin kh kw", ((1, 2, 3), 0)),
        ((2, 2, 2, 4, 6), "t h w cin -> cout", ((0, 1, 2, 3), 4)),
        ((6, 4, 2, 2, 2), "cout <- cin t h w", ((1, 2, 3, 4), 0)),
    ],
)
@pytest.mark.parametrize("scale", ["rms", "width"])
def test_texts_equal_dimension_numbers(shape, text, numbers, scale):
    """Inputs first and outputs first, stacked, and convolutions of one to three spatial axes: one step equals Optax's
    with the numbers that the text means, in both scales of updates."""
    parameters = {"w": normal(*shape)}
    settings = MuonSettings(coefficients="keller_jordan", update_scale=scale)
    optimizer = muon(0.1, text, settings)
    theirs = optax.contrib.muon(
        0.1, muon_weight_dimension_numbers={"w": MuonDimensionNumbers(*numbers)},
        consistent_rms=0.2 if scale == "rms" else None,
    )  # fmt: skip
    found, expected = (one.update(parameters, one.init(parameters), parameters)[0] for one in (optimizer, theirs))
    same(found, expected)


@pytest.mark.parametrize(
    ("tree", "rule", "message"),
    [
        ({"w": jnp.ones((2, 3), jnp.complex64)}, None, "parameter w: found dtype complex64"),
        ({"w": jnp.ones((2, 3), jnp.int32)}, None, "parameter w: found dtype int32"),
        ({"w": jnp.ones((2, 3))}, "a b -> c", "muon rule of w: found 3 axes"),
        ({"w": jnp.ones((2, 3))}, "a b", "muon rule of w: found 'a b'"),
        ({"w": jnp.ones((2, 3))}, "-> b", "muon rule of w"),
        ({"w": jnp.ones((2, 3))}, "a -> b @sgd", "muon rule of w"),
        ({"w": jnp.ones((2, 3))}, {"v": "a -> b"}, "parameter w: found no rule"),
        ({"w": jnp.ones((2, 3))}, {"w": "a -> b", "v": "a -> b"}, "muon rule of v: found no leaf there"),
        ({"w": jnp.ones((2, 3))}, {"*/w": "a -> b"}, r"muon rule '\*/w': found no leaf"),
        ({"w": jnp.ones((2, 3))}, MuonDimensionNumbers(0, 2), "muon rule of w"),
        ({"w": jnp.ones((2, 3))}, MuonDimensionNumbers(0, 0), "every axis once"),
        ({"w": jnp.ones((2, 3))}, lambda path, leaf: 3, "muon rule of w: found 3"),
    ],
)
def test_what_does_not_fit_is_refused(tree, rule, message):
    """When the state is made, by one line that names the leaf."""
    with pytest.raises(InputError, match=message) as raised:
        muon(1e-3, rule).init(tree)
    assert "\n" not in str(raised.value)


def test_the_default_is_said_once(caplog):
    """With no rule `init` logs which leaves are matrices and which are not, once; with a rule nothing."""
    with caplog.at_level(logging.WARNING):
        optimizer = muon(1e-3)
        optimizer.init(gpt()), optimizer.init(gpt())
        muon(1e-3, {"*": None}).init(gpt())
    (said,) = [record.getMessage() for record in caplog.records]
    matrices, rest = said.split("; to AdamW: ")
    assert "h_*/attn/c_attn/kernel" in matrices and "x 2" in matrices
    assert "wte/embedding" in rest and "lm_head/kernel" in rest


def test_a_gradient_of_none_moves_nothing():
    """Its update is None, as Optax's are, and all other leaves move as they would without it."""
    parameters = {"w": normal(4, 6), "v": normal(4, 6), "b": normal(6), "c": normal(3)}
    optimizer = muon(0.1, {"[wv]*": "in -> out"})
    state = optimizer.init(parameters)
    whole, _ = optimizer.update(parameters, state, parameters)
    found, after = optimizer.update(parameters | {"v": None, "c": None}, state, parameters)
    assert found["v"] is None and found["c"] is None
    same({"w": found["w"], "b": found["b"]}, {"w": whole["w"], "b": whole["b"]}, atol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_moments_and_decay_are_as_asked():
    """`mu_dtype` is the dtype of all first moments; a mask says what decays, a prefix of it too; no mask: matrices and
    heads."""
    parameters = gpt()
    state = muon(1e-3, mu_dtype=jnp.bfloat16).init(parameters)
    moments = [leaf for name, leaf in named_leaves(state).items() if "/mu/" in name or "/momentum/" in name]
    assert len(moments) == len(jax.tree.leaves(parameters)) and {leaf.dtype for leaf in moments} == {jnp.bfloat16.dtype}
    zeros = jax.tree.map(jnp.zeros_like, parameters)

    def decayed(mask):
        optimizer = muon(0.1, weight_decay=0.5, weight_decay_mask=mask)
        updates, _ = optimizer.update(zeros, optimizer.init(parameters), parameters)
        return {name for name, leaf in named_leaves(updates).items() if np.abs(leaf).max() > 0}

    assert decayed(None) == TREES["gpt"][1] | {"lm_head/kernel"}
    mask = {name: name in ("h_0", "wpe") for name in parameters}
    assert decayed(mask) == {name for name in named_leaves(parameters) if name.startswith(("h_0", "wpe"))}
    with pytest.raises(InputError, match="weight_decay_mask"):
        decayed({"wte": True})


def chained():
    return optax.chain(optax.clip_by_global_norm(1.0), muon(0.1))


def injected():
    return optax.inject_hyperparams(muon)(learning_rate=optax.linear_schedule(0.1, 0.0, 10), weight_decay=0.1)


def partitioned():
    labels = {name: "sgd" if name == "wpe" else "muon" for name in gpt()}
    return optax.partition({"muon": muon(0.1), "sgd": optax.sgd(0.1)}, labels)


WRAPPED = {
    "chain": chained,
    "partition": partitioned,
    "MultiSteps": lambda: optax.MultiSteps(muon(0.1), 2),
    "inject_hyperparams": injected,
    "apply_if_finite": lambda: optax.apply_if_finite(muon(0.1), 3),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_it_works_inside_optax_and_comes_back_from_a_checkpoint(name, tmp_path):
    """Two jitted steps, the state saved by Orbax and restored, two more: bit for bit the four steps without the
    checkpoint, and the parameters move."""
    import orbax.checkpoint as ocp

    parameters, optimizer = gpt(), WRAPPED[name]()
    step = jax.jit(optimizer.update)

    def run(parameters, state, count):
        for _ in range(count):
            updates, state = step(parameters, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        return parameters, state

    middle = run(parameters, optimizer.init(parameters), 2)
    with ocp.StandardCheckpointer() as store:
        store.save(tmp_path / "saved", middle)
        store.wait_until_finished()
        back = store.restore(tmp_path / "saved", middle)
    straight, resumed = run(*middle, 2), run(*back, 2)
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    moved = named_leaves(jax.tree.map(lambda one, other: np.abs(one - other).max(), parameters, straight[0]))
    assert min(moved.values()) > 0


def test_a_rematerialised_loss_gives_the_same_step():
    """Gradients through jax.checkpoint lead to the update of gradients without it."""
    parameters, values = {"w": normal(4, 6), "v": normal(6, 4)}, normal(3, 4)

    def loss(given):
        return jnp.sum(jnp.tanh(values @ given["w"]) @ given["v"])

    optimizer = muon(0.1)
    state = optimizer.init(parameters)
    found, expected = (
        optimizer.update(jax.grad(function)(parameters), state, parameters)[0]
        for function in (jax.checkpoint(loss), loss)
    )
    same(found, expected)
