"""Cross-modal alignment losses and maximum mean discrepancy with analytic gradients: NumPy, PyTorch, JAX, CuPy.

    loss = craft_align.info_nce(images, texts)                                      # tensors of PyTorch: loss.backward()
    value, g = craft_align.mmd(x, y, bandwidths=(0.5, 1, 2), gradients=("x", "y"))  # arrays of NumPy
    jax.value_and_grad(craft_align.info_nce)(images, texts)                         # arrays of JAX

One function for each verb, for arrays of any library: NumPy, CuPy, TensorFlow, whatever has DLPack or the buffer protocol;
PyTorch and JAX also differentiate them. All arrays of a call belong to one library, and results to the same. Arrays are
matrices whose rows are samples, of float64, float32, float16 or bfloat16; all matrices of a call have one type. Values and
gradients are computed in, and have, float64 for float64 and float32 for the others (PyTorch and JAX then give gradients the
type of what they belong to). Labels and weights are arrays or sequences.

Copied: nothing, where the numbers of a row lie side by side; others are a ValueError that says so (PyTorch makes them
contiguous). It runs on the calling thread and OpenMP's, with the interpreter's lock released (PyTorch: in torch's threads; JAX:
in XLA's); OMP_NUM_THREADS says how many, and the results are the same bits for any number. Arrays in CUDA memory in the legacy
default stream of their device (PyTorch and JAX: in theirs), if the package was built for that.

Errors: ValueError (shapes, options), TypeError (element types, what is no array, arrays of several libraries), IndexError (labels
out of range), RuntimeError (a device that this build has not, arrays on several devices). Nothing is computed then.

The losses look at a whole batch: they are not sums over samples.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING
from typing import Any as _Any

from . import _dispatch
from ._load import level as level
from ._verbs import *  # noqa: F403

if TYPE_CHECKING:
    from ._modules import *  # noqa: F403

__version__ = _version("craft-align")


def __getattr__(name: str) -> _Any:
    """craft_align.jax, craft_align.torch and its modules: imported when they are first asked for."""
    if name in ("jax", "torch"):
        return _import_module("." + name, __name__)
    if name[:1].isupper():
        modules = _import_module("._modules", __name__)
        if name in modules.__all__:
            return getattr(modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> "list[str]":
    return sorted([*globals(), "jax", "torch", *(v["module"] for v in _dispatch.descriptions if v["module"])])
