"""Cross-modal alignment losses and maximum mean discrepancy with analytic gradients: NumPy, CuPy, PyTorch, JAX."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from ._load import level
from .arrays import (
    Array,
    KMeans,
    ObjectiveValues,
    anchor_cross_entropy,
    as_array,
    bandwidth_scale,
    class_means,
    farthest_point_anchors,
    info_nce,
    kmeans,
    kmeans_per_class,
    medoids,
    mmd,
    mmd_preset,
    objective,
    random_anchors,
    relative,
    relative_pullback,
    sigmoid_contrastive,
    stratified_anchors,
)

if TYPE_CHECKING:
    from .torch import (
        AnchorCrossEntropyLoss,
        CraftObjective,
        InfoNCELoss,
        MMDLoss,
        MMDPresetLoss,
        RelativeRepresentation,
        SigmoidLoss,
    )

__version__ = _version("craft-align")

# Names that live in modules which import a framework: imported when they are first asked for.
_lazy = {
    "jax": "jax",
    "torch": "torch",
    "AnchorCrossEntropyLoss": "torch",
    "CraftObjective": "torch",
    "InfoNCELoss": "torch",
    "MMDLoss": "torch",
    "MMDPresetLoss": "torch",
    "RelativeRepresentation": "torch",
    "SigmoidLoss": "torch",
}


def __getattr__(name):
    if name not in _lazy:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _import_module("." + _lazy[name], __name__)
    return module if name == _lazy[name] else getattr(module, name)


def __dir__():
    return sorted([*globals(), *_lazy])
