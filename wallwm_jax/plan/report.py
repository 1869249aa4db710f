"""A plan as sections of lines for people, and as JSON."""

import dataclasses
from typing import Any

from wallwm_jax.plan.hardware import GIB
from wallwm_jax.plan.plan import Plan

Section = tuple[str, list[tuple[str, str]]]
"""A title, and (name, value) lines."""


def verdict(plan: Plan) -> str:
    """One line: does it fit?"""
    limit = f"{_gib(plan.limit)} of {plan.topology.chip_name}"
    if plan.compiled is not None and plan.compiled.memory is None:
        needed = f"needs {_gib(plan.needed)}, has the {limit}; " if plan.needed else f"has the {limit}; "
        return f"does not fit: {needed}the compiler says: {plan.compiled.refusal}"
    if plan.compiled is None and plan.fits:
        return f"may fit: needs at least {_gib(plan.needed)} of the {limit}; only compiling tells"
    least = "at least " if plan.compiled is None else ""
    return f"{'fits' if plan.fits else 'does not fit'}: needs {least}{_gib(plan.needed)} of the {limit}"


def sections(plan: Plan) -> list[Section]:
    """All that a plan says, in the order in which a person asks."""
    return [_what(plan), _memory(plan), _operations(plan), _traffic(plan), _speed(plan)]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's numbers: bytes, operations and seconds, a device where a name does not say otherwise."""
    roof, memory = plan.roofline, plan.compiled.memory if plan.compiled else None
    return {
        "fits": plan.fits,
        "verdict": verdict(plan),
        "stage": plan.stage,
        "frozen": list(plan.frozen),
        "topology": {"name": plan.topology.name, "slices": plan.topology.slices, "chips": plan.topology.chips},
        "mesh": plan.mesh,
        "parameters": {"all": plan.parameters, "trained": plan.trained},
        "batch": {"rows": plan.rows, "tokens": plan.tokens},
        "compile_seconds": plan.compiled.seconds if plan.compiled else None,
        "memory": {
            "limit": plan.limit,
            "needed": plan.needed,
            "shardings": plan.held._asdict(),
            "compiled": memory._asdict() if memory else None,
        },
        "flops": {**plan.operations._asdict(), "device": plan.traffic.flops, "even_share": plan.operations.device},
        "traffic": {
            "compiled": bool(plan.compiled and plan.compiled.traffic),
            "memory_bytes": plan.traffic.memory,
            "sent": {kind: dataclasses.asdict(sent) for kind, sent in plan.traffic.sent.items()},
            "unknown_loops": plan.traffic.unknown_loops,
        },
        "seconds": {**roof._asdict(), "overlapped": roof.overlapped, "serial": roof.serial, "bound": roof.bound},
        "mfu": {name: plan.utilisation(getattr(roof, name)) for name in ("overlapped", "serial")},
        "tokens_per_second": {name: plan.tokens / getattr(roof, name) for name in ("overlapped", "serial")},
    }


def _what(plan: Plan) -> Section:
    topology = plan.topology
    slices = f"{topology.slices} slices of " if topology.slices > 1 else ""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        ("stage", plan.stage + (f", {', '.join(plan.frozen)} frozen" if plan.frozen else "")),
        ("topology", f"{slices}{topology.name}, {topology.chips} chips; mesh {mesh}"),
        ("parameters", f"{_si(plan.parameters)}, {_si(plan.trained)} of them trained"),
        ("global batch", f"{plan.rows} rows, {plan.tokens:,} tokens if every slot is taken"),
    ]
    if plan.compiled is not None:
        lines.append(("compiling took", f"{plan.compiled.seconds:.0f} s"))
    return "plan", lines


def _memory(plan: Plan) -> Section:
    held = plan.held
    lines = [
        ("parameters", _gib(held.parameters)),
        ("average", _gib(held.average)),
        ("optimizer state", _gib(held.optimizer)),
        ("batch", _gib(held.batch)),
    ]
    if held.host:
        lines.append(("in the host's memory", f"{_gib(held.host)}; its way to the device and back is not counted"))
    if plan.compiled is not None and plan.compiled.memory is not None:
        memory = plan.compiled.memory
        lines += [("temporaries", f"{_gib(memory.temporaries)}, not all at a time"), ("program", _gib(memory.code))]
        lines += [("peak", f"{_gib(memory.peak)} of {_gib(plan.limit)}")]
    else:
        lines += [
            ("gradients", _gib(held.gradients)),
            ("activations kept", f"{_gib(held.kept)} if spread evenly"),
            ("activations beside", f"at most {_gib(held.inside)} if spread evenly"),
        ]
    return "memory a device", lines


def _operations(plan: Plan) -> Section:
    found, done = plan.operations, plan.traffic.flops
    lines = [
        ("model", f"{_si(found.model, 'FLOP')} on all devices (forward and backward)"),
        ("recomputed", f"{_si(found.recomputed, 'FLOP')} on all devices (remat)"),
        ("optimizer", f"{_si(found.optimizer, 'FLOP')} on the busiest device"),
        ("even share", f"{_si(found.device, 'FLOP')} a device"),
    ]
    if plan.compiled is not None and plan.compiled.traffic is not None:
        lines.append(("compiled", f"{_si(done, 'FLOP')} a device, {done / found.device:.2f} x its even share"))
    return "operations a step", lines


def _traffic(plan: Plan) -> Section:
    compiled = plan.compiled is not None and plan.compiled.traffic is not None
    lines = [("HBM", f"{_si(plan.traffic.memory, 'B')} read and written")]
    for kind, sent in plan.traffic.sent.items():
        between = f", {_si(sent.network, 'B')} between slices or nodes" if sent.network else ""
        calls = f", in {sent.calls:,.0f} calls" if compiled else ""
        lines.append((kind, f"{_si(sent.links, 'B')} sent over links{between}{calls}"))
    if plan.traffic.unknown_loops:
        lines.append(("loops of unknown length", f"{plan.traffic.unknown_loops}, of whose bytes one turn is counted"))
    return f"traffic a device and step ({'compiled' if compiled else 'the least there can be'})", lines


def _speed(plan: Plan) -> Section:
    roof = plan.roofline
    lines = [(name, _si(seconds, "s")) for name, seconds in roof._asdict().items()]
    for name, meaning in (("overlapped", f"bound by {roof.bound}"), ("serial", "nothing overlaps")):
        seconds = getattr(roof, name)
        speed = f"{plan.utilisation(seconds):.1%} MFU, {plan.tokens / seconds:,.0f} tokens/s"
        lines.append((f"step, {name}", f"{_si(seconds, 's')} ({meaning}): {speed}"))
    return "speed at published peaks", lines


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _si(value: float, unit: str = "") -> str:
    """Four digits and a decimal prefix: 12.56 GB."""
    prefixes = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m"}
    scale = next((scale for scale in prefixes if abs(value) >= scale), 1e-6) if value else 1.0
    return f"{value / scale:.4g} {prefixes.get(scale, 'µ')}{unit}".rstrip()
