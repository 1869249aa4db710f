"""A plan: does a stage's train step fit a topology, and how fast can it be?"""

import dataclasses

import ml_collections

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import abstract_mesh, make_mesh
from wallwm_jax.core.trees import parameter_count
from wallwm_jax.optim import freeze
from wallwm_jax.plan.analytic import Holdings, holdings, least_traffic
from wallwm_jax.plan.compilation import Compiled, compile_step
from wallwm_jax.plan.operations import Operations, count_activations, count_operations
from wallwm_jax.plan.roofline import Roofline, roofline, utilisation
from wallwm_jax.plan.step import AbstractStep, abstract_step
from wallwm_jax.plan.topology import Topology, absent_devices
from wallwm_jax.plan.traffic import Traffic
from wallwm_jax.train.families import FAMILIES, Families
from wallwm_jax.train.stages import Stage, batch_rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """`compiled` is None where nothing was compiled (analytic plans). `traffic` is the compiled program's, or else the
    least there can be. `rows` and `tokens` are those of a global batch with every slot taken."""

    stage: str
    frozen: tuple[str, ...]
    topology: Topology
    mesh: dict[str, int]
    parameters: int
    trained: int
    rows: int
    tokens: int
    operations: Operations
    held: Holdings
    traffic: Traffic
    roofline: Roofline
    compiled: Compiled | None

    @property
    def limit(self) -> float:
        """Bytes of HBM that a device has."""
        return self.topology.chip.memory / self.topology.chip.devices

    @property
    def needed(self) -> float | None:
        """Bytes that a device needs: the compiler's count, or the least of an analytic plan; None if the compiler has
        refused without saying."""
        if self.compiled is None:
            return self.held.least
        return self.compiled.needed if self.compiled.memory is None else self.compiled.memory.peak

    @property
    def fits(self) -> bool:
        """Whether the compiler took it; of an analytic plan, whether the least that it needs is there."""
        if self.compiled is not None and self.compiled.memory is None:
            return False
        return self.needed <= self.limit

    def utilisation(self, seconds: float) -> float:
        """MFU of a step that takes so long."""
        return utilisation(self.topology.chip, self.operations.model, self.topology.devices, seconds)


def make_plan(
    stage: Stage,
    config: ml_collections.ConfigDict,
    topology: Topology,
    views: int,
    *,
    analytic: bool = False,
    families: Families = FAMILIES,
) -> Plan:
    """Plans `stage` of a config, for a dataset of so many views, on a topology.

    Raises InputError for what `train_stage` refuses, for a mesh that the devices do not fit, and for a topology that
    cannot be compiled for unless the plan is `analytic`.
    """
    count = topology.devices
    mesh = abstract_mesh(config.mesh, count)
    if mesh.size != count:
        raise InputError("config.mesh", f"{config.mesh!r}, {mesh.size} devices", f"the {count} of {topology.name}")
    if not analytic:
        mesh = make_mesh(config.mesh, absent_devices(topology))
    elif mesh.shape["data"] % topology.slices:
        found = f"{config.mesh!r}, data = {mesh.shape['data']}"
        raise InputError("config.mesh", found, f"a multiple of the {topology.slices} slices")
    step = abstract_step(stage, config, views, mesh, families=families)
    plain = abstract_step(stage, config, views, mesh, remat="none", families=families)
    operations = count_operations(step, plain)
    held = holdings(step, count_activations(step))
    compiled = None if analytic else compile_step(step)
    return _plan(step, topology, config, operations, held, compiled)


def _plan(
    step: AbstractStep,
    topology: Topology,
    config: ml_collections.ConfigDict,
    operations: Operations,
    held: Holdings,
    compiled: Compiled | None,
) -> Plan:
    stage, parameters = step.run.stage, step.state.parameters
    trained, _ = freeze.split(parameters, stage.trains)
    found, flops = least_traffic(step, held, topology.domains), operations.device
    if compiled is not None and compiled.traffic is not None:
        found = compiled.traffic
        flops = found.flops + (operations.optimizer if found.unknown_loops else 0)
    return Plan(
        stage=stage.name,
        frozen=step.run.settings.freeze,
        topology=topology,
        mesh=dict(step.run.mesh.shape),
        parameters=parameter_count(parameters),
        trained=parameter_count(trained),
        rows=batch_rows(stage, config)[1],
        tokens=stage.batches.tokens(step.run.model, step.batch),
        operations=operations,
        held=held,
        traffic=dataclasses.replace(found, flops=flops),
        roofline=roofline(topology.chip, flops, found.memory, found.total_sent),
        compiled=compiled,
    )
