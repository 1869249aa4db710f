"""One training step and one evaluation, as pure functions of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from wallwm_jax.core.model import Model
from wallwm_jax.core.rng import stream, substream
from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.objectives.portions import Part
from wallwm_jax.optim import ema, freeze
from wallwm_jax.optim.builder import learning_rates
from wallwm_jax.optim.clipping import global_norm
from wallwm_jax.train.accumulation import summed
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.settings import StageSettings
from wallwm_jax.train.stages import Stage
from wallwm_jax.train.state import TrainState

Step = Callable[[TrainState, TrainingBatch], tuple[TrainState, dict[str, Array]]]


def make_gradients(
    model: Model, stage: Stage, settings: StageSettings, seed: int
) -> Callable[[Any, TrainingBatch, Int[Array, ""]], tuple[tuple[Array, dict[str, Array]], Any]]:
    """`gradients(parameters, batch, step) -> ((loss, metrics), gradients of the trained towers)`.

    The step's randomness is that of stream (seed, "objective", stage, step). Frozen towers are outside the
    differentiated argument: they get no backward pass. With `accumulate` the batch is taken in parts.
    """
    key, parts = stream(seed, "objective", stage.name), settings.run.accumulate

    def gradients(parameters: Any, batch: TrainingBatch, step: Int[Array, ""]) -> Any:
        trained, frozen = freeze.split(parameters, stage.trains)

        def loss_of(towers: Any, rows: TrainingBatch, **portion: Part) -> tuple[Array, dict[str, Array]]:
            merged = freeze.merge(towers, frozen)
            return stage.objective(model, merged, rows, substream(key, step), settings.objective, **portion)

        def of_part(rows: TrainingBatch, part: Part) -> tuple[Any, Any]:
            found, slopes = jax.value_and_grad(loss_of, has_aux=True)(trained, rows, portion=part)
            return slopes, found

        if parts == 1:
            return jax.value_and_grad(loss_of, has_aux=True)(trained, batch)
        slopes, found = summed(of_part, batch, parts, jax.tree.map(jnp.zeros_like, trained))
        return found, slopes

    return gradients


def make_train_step(
    model: Model,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    settings: StageSettings,
    seed: int,
    fault: Fault | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)`: not yet compiled, so that the caller decides donation and sharding.

    Frozen towers come out as the arrays that went in. A step whose loss, gradient norm or update norm is not finite
    changes nothing but the counters. The metrics have the learning rate of every group of the optimizer. Only with a
    `fault` does the program hold one.
    """
    gradients_of = make_gradients(model, stage, settings, seed)
    rates = learning_rates(settings.optimizer)

    def step(state: TrainState, batch: TrainingBatch) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = freeze.split(state.parameters, stage.trains)
        (loss, metrics), gradients = gradients_of(state.parameters, batch, state.step)
        if fault is not None:
            gradients = fault.corrupt(gradients, state.step + 1)
        norm = global_norm(gradients)
        before = state.optimizer_state
        if settings.run.offload_optimizer:  # where a step's results are to lie, the caller says
            before = jax.device_put(before, jax.memory.Space.Device)
        updates, optimizer_state = optimizer.update(gradients, before, trained)
        update_norm = global_norm(updates)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss) & jnp.isfinite(update_norm)
        moved = optax.apply_updates(trained, updates)
        average = ema.update(state.average, moved, ema.decay_at(state.step, settings.run.ema_decay))
        moved, average, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (moved, average, optimizer_state),
            (trained, state.average, before),
        )
        events = state.events + metrics.pop("events").astype(jnp.int32)
        skipped = state.skipped + 1 - finite.astype(jnp.int32)
        metrics |= {"loss": loss, "grad_norm": norm, "update_norm": update_norm}
        metrics |= {name: jnp.asarray(rate(state.step), jnp.float32) for name, rate in rates.items()}
        parameters = freeze.merge(moved, frozen)
        return TrainState(state.step + 1, events, skipped, parameters, average, optimizer_state), metrics

    return step


def make_evaluation(model: Model, stage: Stage, settings: StageSettings) -> Callable[..., dict[str, Array]]:
    """`evaluation(parameters, batch, key) -> metrics` with "loss" among them, under the conditions of inference."""
    objective, parts = settings.objective.for_evaluation(), settings.run.accumulate

    def evaluation(parameters: Any, batch: TrainingBatch, key: PRNGKeyArray) -> dict[str, Array]:
        def loss_of(rows: TrainingBatch, **portion: Part) -> tuple[Array, dict[str, Array]]:
            return stage.objective(model, parameters, rows, key, objective, **portion)

        if parts == 1:
            loss, metrics = loss_of(batch)
        else:
            _, (loss, metrics) = summed(lambda rows, part: ((), loss_of(rows, portion=part)), batch, parts, ())
        return {name: value for name, value in metrics.items() if name.endswith("loss")} | {"loss": loss}

    return evaluation
