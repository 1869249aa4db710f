"""What objectives and inference know of a model: that its methods are called by name, with parameters."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Model(Protocol):
    """A model whose parameters stand outside of it, as a Flax module's do. What its methods are called is said by the
    functions that call them."""

    def apply(self, variables: Mapping[str, Any], *inputs: Any, method: str, **options: Any) -> Any:
        """`method(*inputs, **options)` of the model with the parameters `variables["params"]`."""
