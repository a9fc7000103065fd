"""Which library an array belongs to, and the call of a verb on it: what the functions of _verbs.py do."""

from typing import Any, Dict, Sequence, Set, Tuple, Union

from ._load import core

descriptions = core.verbs()
results: Dict[int, Any] = {}  # by the number of a verb that gives several: the tuple it gives them as
torch: Any = None  # craft_align._torch, once there is a tensor
operators: Any = None  # torch.ops.craft, then
jax: Any = None  # craft_align.jax, once there is an array of JAX
tensors: Set[type] = set()  # the types of PyTorch's tensors that were seen, if the package was built for that
_libraries: Dict[type, str] = {}  # of the types that were seen
_not_built: Dict[str, ImportError] = {}


def _library(kind: type) -> str:
    """"torch" or "jax", if the package was built with it; "" for all others, which go through DLPack or the buffer protocol."""
    global torch, jax, operators
    tops = [base.__module__.partition(".")[0] for base in kind.__mro__]
    found = "torch" if "torch" in tops else "jax" if "jax" in tops or "jaxlib" in tops else ""
    try:
        if found == "torch":
            from . import _torch as torch

            operators = torch.operators
        elif found == "jax":
            from . import jax
    except ImportError as error:
        _not_built[found] = error
        found = ""
    _libraries[kind] = found
    if found == "torch":
        tensors.add(kind)
    return found


def class_of(x: Any) -> str:
    """What messages call it: "list", "numpy.ndarray"."""
    module = type(x).__module__.partition(".")[0]
    return type(x).__name__ if module == "builtins" else f"{module}.{type(x).__name__}"


def is_torch(x: Any) -> bool:
    """Whether it is a tensor of PyTorch, and the package was built for that."""
    kind = type(x)
    return (_libraries[kind] if kind in _libraries else _library(kind)) == "torch"


def call(index: int, arguments: Tuple[Any, ...], upstream: Any, gradients: Union[str, Sequence[str]]) -> Any:
    """The verb of that number, on arrays of the library of the first."""
    kind = type(arguments[0])
    if (_libraries[kind] if kind in _libraries else _library(kind)) == "jax":
        return jax.call(index, arguments, upstream, gradients)
    return by_core(index, arguments, upstream, gradients)


def by_core(index: int, arguments: Tuple[Any, ...], upstream: Any, gradients: Union[str, Sequence[str]]) -> Any:
    """The same on arrays in memory: no automatic differentiation."""
    try:
        values, found = core.call(index, arguments, upstream, gradients)
    except TypeError:
        libraries = [_libraries.get(type(a)) or _library(type(a)) for a in arguments]
        if "jax" in libraries:  # for which arrays of NumPy are constants
            return jax.call(index, arguments, upstream, gradients)
        for library, error in _not_built.items():  # what its library differentiates or traces it does not export
            if any(library in class_of(a) for a in arguments):
                raise error from None
        raise
    return finished(index, values, found if gradients else None)


def finished(index: int, values: Sequence[Any], gradients: Any) -> Any:
    """Results as the functions give them."""
    if not values:
        return gradients
    if index in results:
        value = results[index](*(values if len(values) > 1 else values[0]))
    else:
        value = values[0]
    return value if gradients is None else (value, gradients)
