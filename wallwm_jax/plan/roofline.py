"""How long a step takes at a chip's published peaks."""

from typing import NamedTuple

from wallwm_jax.plan.hardware import Chip
from wallwm_jax.plan.traffic import Sent


class Roofline(NamedTuple):
    """Seconds a step of a device: its products, its HBM, what it sends. Real steps lie above `overlapped`: no program
    reaches all peaks, and a collective along one axis of a torus uses a part of the links."""

    compute: float
    memory: float
    network: float

    @property
    def overlapped(self) -> float:
        """If all three run beside each other."""
        return max(self)

    @property
    def serial(self) -> float:
        """If each waits for the others."""
        return sum(self)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]


def roofline(chip: Chip, flops: float, memory: float, sent: Sent) -> Roofline:
    """Of one device: operations, bytes of HBM and bytes sent. A device that is a part of a chip has its part of all."""
    part = 1 / chip.devices
    between = sent.network / (chip.network_bandwidth * part) if sent.network else 0.0
    network = sent.links / (chip.link_bandwidth * part) + between
    return Roofline(flops / (chip.flops * part), memory / (chip.memory_bandwidth * part), network)


def utilisation(chip: Chip, model_flops: float, devices: int, seconds: float) -> float:
    """MFU: the model's operations over those that the chips could do in that time."""
    return model_flops / (devices / chip.devices * chip.flops * seconds)
