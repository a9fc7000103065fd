"""What tensors of PyTorch need: the operators torch.ops.craft, loaded; arguments that are no tensors; batches; modules."""

import ctypes
from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from . import _dispatch, _load

verbs = _dispatch.descriptions


def _load_operators() -> None:
    if hasattr(torch.ops.craft, "mmd"):  # the program has them itself
        return
    library = _load.library("libcraft_align_torch")
    if library is None:
        raise ImportError(
            "craft_align was built without PyTorch; install it with `pip install --no-build-isolation` where torch is installed"
        )
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        ctypes.CDLL(library).craft_stop_with(ctypes.c_void_p(_load.core.stop))  # Ctrl-C ends long calls
    except OSError as error:
        raise ImportError(
            f"craft_align was built for another PyTorch than {torch.__version__}; install it again with "
            "`pip install --no-build-isolation --force-reinstall --no-deps`"
        ) from error


_load_operators()
operators = torch.ops.craft


def numbers(given: Any) -> Tuple[Optional[List[float]], Optional[Tensor]]:
    """Numbers as operators take them: as a list, or as a tensor that may be learned."""
    if given is None or isinstance(given, Tensor):
        return None, given
    return [float(given)] if isinstance(given, (int, float)) else [float(x) for x in given], None


def number(given: Any, otherwise: float) -> Tuple[Any, Optional[Tensor]]:
    """The same of one."""
    return (otherwise, given) if isinstance(given, Tensor) else (given, None)


def listed(given: Any) -> Any:
    """Labels or weights that are a list or a tuple, as a tensor."""
    return torch.as_tensor(given) if isinstance(given, (list, tuple)) else given


def explain(index: int, error: RuntimeError, arguments: Tuple[Any, ...]) -> None:
    """Raises what the other libraries' functions say of wrong arguments, where torch speaks of its schema. Returns if it is nothing."""
    if type(error) is not RuntimeError:
        return
    name, fields = verbs[index]["name"], verbs[index]["fields"]
    faults = [
        f"{f['name']} is a {_dispatch.class_of(a)}"
        for f, a in zip(fields, arguments)
        if f["kind"] in ("matrix", "computed", "labels", "targets", "numbers")
        and not isinstance(a, Tensor)
        and (a is not None or f["required"])
    ]
    if faults:
        raise TypeError(f"{name}: {'; '.join(faults)}: expected a torch.Tensor, as {fields[0]['name']} is")
    _load.core.check(index, arguments, False)


def with_gradients(index: int, arguments: Tuple[Any, ...], upstream: Any, gradients: Union[str, Sequence[str]]) -> Any:
    """The value, and the gradients that were asked for by name: constants, from outside of automatic differentiation."""
    constants = tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
    out = _dispatch.by_core(index, constants, upstream.detach() if isinstance(upstream, Tensor) else upstream, gradients)
    if constants[0].is_cuda:  # where it ran
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
    return out


# ----------------------------------------------------------------------------------------------------------------------
# torch.vmap: (B, n, d) against (B, m, d) in one call, the elements one after the other


def _batched(operator: Any) -> None:
    def rule(info: Any, in_dims: Any, *arguments: Any, **named: Any) -> Any:
        def element(a: Any, dim: Any, b: int) -> Any:
            return a.select(dim, b) if dim is not None else a

        outputs = [
            operator(*(element(a, dim, b) for a, dim in zip(arguments, in_dims)), **named) for b in range(info.batch_size)
        ]
        if isinstance(outputs[0], Tensor):
            return torch.stack(outputs), 0
        return tuple(map(torch.stack, zip(*outputs))), (0,) * len(outputs[0])

    torch.library.register_vmap(operator, rule)


if hasattr(torch.library, "register_vmap"):  # torch 2.5
    for _verb in verbs:
        for _name in (_verb["name"], _verb["name"] + "_gradients"):
            if hasattr(torch.ops.craft, _name):
                _batched(getattr(torch.ops.craft, _name).default)


# ----------------------------------------------------------------------------------------------------------------------


class Module(nn.Module):
    """A verb with its options; those that are learnt are parameters instead."""

    _index: int

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = index

    def check(self) -> None:
        """Raises what is wrong with the options."""
        _load.core.check(self._index, tuple(getattr(self, "_" + f["name"], None) for f in verbs[self._index]["fields"]), True)

    def learn(self, name: str, wanted: bool) -> None:
        """Makes an option a parameter, if that is wanted; else the parameter is None."""
        start = getattr(self, "_" + name)
        if wanted and start is None:  # one for each bandwidth
            bandwidths = getattr(self, "bandwidths", None)
            start = [1.0] * len(getattr(self, "_bandwidths", None) or (bandwidths if bandwidths is not None else [1.0]))
        self.register_parameter(name, nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype())) if wanted else None)
        if wanted and isinstance(start, list):
            setattr(self, "_" + name, None)

    def extra_repr(self) -> str:
        """Options that are not their default."""
        shown = ((f["name"], getattr(self, "_" + f["name"], f["default"]), f["default"]) for f in verbs[self._index]["fields"])
        return ", ".join(f"{name}={value!r}" for name, value, default in shown if value != default and value is not None)
