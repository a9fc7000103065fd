"""What only JAX needs: custom derivatives of the verbs over XLA's foreign function interface. The functions are those of craft_align.

    loss = lambda x: craft_align.info_nce(x, texts) + craft_align.mmd(x, target, bandwidths=(0.5, 1, 2))
    value, dx = jax.jit(jax.value_and_grad(loss))(x)

Options are static; arrays, and numbers that may be an array (`log_scale`, `bandwidths`, ...), may be traced, and are differentiated by:
sample weights, row weights and soft targets too, labels not.

Differentiation: reverse mode, once. The forward pass under differentiation computes the value and the gradients that
are asked for in one call, and the backward pass multiplies them by the cotangent. jax.jvp, jax.jacfwd and second
derivatives raise. jax.vmap calls once per element. The losses look at a whole batch: a vmap over rows or a mean over
devices is another loss; under sharding gather the batch first.

A scale is min(exp(log_scale), max_scale). At max_scale and above the gradient by log_scale that the caller gets, the cotangent
included, passes if a step against it leads back inside, and is 0 else: log_scale may start at its bound.

Element types: float64 (with jax_enable_x64), float32, float16, bfloat16. Values are float64 of float64, else float32;
gradients have the types of what they belong to. Nothing is copied.

Where it runs: on the CPU in XLA's thread pool, on a GPU in XLA's stream, if the package was built for that.

Errors: shapes, types and options are ValueError and TypeError when a function is traced. What only the verb itself can tell
(a label outside its range, too few rows) is a jax.errors.JaxRuntimeError of the call.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Dict, NamedTuple, Sequence, Tuple, Union

import jax as _jax
import jax.numpy as jnp
import numpy as np

from . import _dispatch, _load
from ._verbs import *  # noqa: F403

jax: Any = _jax  # whose types leave out what is used here
verbs = _dispatch.descriptions
by_name = {v["name"]: index for index, v in enumerate(verbs)}


def _register() -> None:
    path = _load.library("libcraft_jax")
    if path is None:
        raise ImportError(
            "craft_align was built without JAX: install it again where this Python imports jax, with --no-build-isolation"
        )
    library = ctypes.CDLL(path)
    for handler, platform in (("craft_cpu", "cpu"), ("craft_cuda", "CUDA")):
        if hasattr(library, handler):
            jax.ffi.register_ffi_target("craft_align", jax.ffi.pycapsule(getattr(library, handler)), platform=platform)


_register()


class _Call(NamedTuple):
    """What is static about a call: hashable."""

    verb: int  # its number
    options: Tuple[Tuple[str, Any], ...]  # names and values
    results: Tuple[Tuple[str, Tuple[int, ...], str], ...]  # names, shapes and types
    dtype: str  # that values are computed in

    def run(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> Any:
        attributes = {name: np.array(value) if type(value) is tuple else value for name, value in self.options}
        call = jax.ffi.ffi_call("craft_align", list(outputs.values()), vmap_method="sequential")
        named = {"verb": verbs[self.verb]["name"], "inputs": ",".join(inputs), "outputs": ",".join(outputs)}
        return call(*inputs.values(), **named, **attributes)

    def values(self) -> Dict[str, Any]:
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in self.results}

    def gradients(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        return {name: jax.ShapeDtypeStruct(x.shape, self.dtype) for name, x in inputs.items()}


def _arrays(arguments: Dict[str, Any]) -> Dict[str, Any]:
    return {name: x.value for name, x in arguments.items()}


def _perturbed(arguments: Dict[str, Any]) -> Sequence[str]:
    """By which of them is differentiated."""
    return [name for name, x in arguments.items() if x.perturbed]


def _cotangents(gradients: Dict[str, Any], like: Dict[str, Any]) -> Dict[str, Any]:
    """In the types of the arguments; none is zero."""
    return {name: gradients[name].astype(x.dtype) if name in gradients else None for name, x in like.items()}


def _two_sided(index: int) -> Sequence[str]:
    """Gradients that are given for the loss and for its negative: at a bound not minus the first."""
    return [f["name"] for f in verbs[index]["fields"] if f["two_sided"]]


def _value_and_gradients(call: _Call, inputs: Dict[str, Any], wanted: Sequence[str]) -> Tuple[Any, Dict[str, Any]]:
    outputs = call.values() | call.gradients({name: inputs[name] for name in wanted})
    for name in _two_sided(call.verb):
        if name in outputs:
            outputs[name] = jax.ShapeDtypeStruct((2,), call.dtype)
    value, *gradients = call.run(inputs, outputs)
    return value, dict(zip(wanted, gradients))


def _times(index: int, gradients: Dict[str, Any], upstream: Any) -> Dict[str, Any]:
    products = {}
    for name, g in gradients.items():
        if name in _two_sided(index):
            products[name] = jnp.abs(upstream) * jnp.where(upstream < 0, g[1], g[0])
        else:
            products[name] = upstream * g
    return products


@functools.partial(jax.jit, static_argnums=(0, 2))
def _compiled(call: _Call, inputs: Dict[str, Any], wanted: Sequence[str], upstream: Any) -> Tuple[Any, Dict[str, Any]]:
    """For calls out of JAX's own compilation, which take ten times as long one operation after the other."""
    value, gradients = _value_and_gradients(call, inputs, wanted)
    return value, _times(call.verb, gradients, jnp.asarray(upstream))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(call: _Call, variables: Dict[str, Any], constants: Dict[str, Any]) -> Any:
    return call.run(variables | constants, call.values())[0]


def _loss_forward(call: _Call, variables: Dict[str, Any], constants: Dict[str, Any]) -> Any:
    values = _arrays(variables)
    value, gradients = _value_and_gradients(call, values | _arrays(constants), _perturbed(variables))
    # Of the arguments only the types are needed later.
    return value, (gradients, {name: jnp.zeros((), x.dtype) for name, x in values.items()})


def _loss_backward(call: _Call, residuals: Any, cotangent: Any) -> Any:
    gradients, types = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None
    if cotangent.ndim:  # of several values the last one has gradients
        cotangent = cotangent[-1]
    return _cotangents(_times(call.verb, gradients, cotangent), types), None


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)
_compiled_loss = jax.jit(_loss, static_argnums=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map(call: _Call, variables: Dict[str, Any]) -> Any:
    return call.run(variables, call.values())[0]


def _map_forward(call: _Call, variables: Dict[str, Any]) -> Any:
    values = _arrays(variables)
    # Which gradients are wanted, as a pytree: the keys are static.
    return call.run(values, call.values())[0], (values, {name: None for name in _perturbed(variables)})


def _map_backward(call: _Call, residuals: Any, cotangent: Any) -> Any:
    values, wanted = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return (None,)
    pullback = call._replace(verb=by_name[verbs[call.verb]["pullback"]])
    given = next(f["name"] for f in verbs[pullback.verb]["fields"] if f["kind"] == "computed")
    outputs = call.gradients({name: values[name] for name in wanted})
    gradients = pullback.run(values | {given: cotangent}, outputs)
    return (_cotangents(dict(zip(outputs, gradients)), values),)


_map.defvjp(_map_forward, _map_backward, symbolic_zeros=True)
_compiled_map = jax.jit(_map, static_argnums=0)


def _labels(verb: str, name: str, given: Any) -> Any:
    y = jnp.asarray(given)
    if isinstance(given, np.ndarray) and given.dtype != y.dtype and (given.astype(y.dtype.name) != given).any():
        raise ValueError(
            f"{verb}: {name} holds labels beyond {y.dtype.name}, which JAX cuts them off to: number the classes from 0, "
            "or set jax_enable_x64"
        )
    if jnp.issubdtype(y.dtype, jnp.integer) and y.dtype.name not in ("int32", "int64"):  # unsigned ones keep their value
        y = y.astype(jnp.int64 if jax.config.jax_enable_x64 else jnp.int32)
    return y


def _array(verb: str, field: Dict[str, Any], given: Any) -> Any:
    """An argument as an array of JAX, or None if it is a number or a name."""
    name, kind = field["name"], field["kind"]
    if kind == "labels" or (kind == "targets" and jnp.ndim(given) < 2):
        return _labels(verb, name, given)
    if kind in ("numbers", "targets"):
        return jnp.asarray(given, float if isinstance(given, (list, tuple)) else None)
    if isinstance(given, jax.Array):
        return given
    if kind not in ("matrix", "computed"):
        return None
    if isinstance(given, np.ndarray):
        return jnp.asarray(given)
    raise TypeError(f"{verb}: {name} is a {_dispatch.class_of(given)}, expected an array of JAX")


def _of_this_jax(dtype: str) -> str:
    """Without jax_enable_x64 there are no numbers of 64 bits."""
    return dtype if jax.config.jax_enable_x64 else dtype.replace("64", "32")


def call(index: int, arguments: Tuple[Any, ...], upstream: Any, gradients: Union[str, Sequence[str]]) -> Any:
    """The verb of that number (craft_align._verbs), differentiable."""
    verb, inputs, options, given = verbs[index], {}, [], []
    computing = None
    for field, value in zip(verb["fields"], arguments):
        array = None if value is None else _array(verb["name"], field, value)
        if array is not None:
            if computing is None:
                computing = "float64" if array.dtype == "float64" else "float32"
            elif field["kind"] != "matrix" and jnp.issubdtype(array.dtype, jnp.floating):
                array = array.astype(computing)
            if field["kind"] == "scalar" and array.size == 1:
                array = array.reshape(())
            inputs[field["name"]] = array
        elif value is not None and not (type(value) in (bool, int, float, str) and value == field["default"]):
            static = value
            if field["kind"] in ("scalar", "number"):
                static = float(value)
            elif field["kind"] == "list":
                static = tuple(map(float, value)) if isinstance(value, (list, tuple, np.ndarray)) else (float(value),)
            elif field["kind"] == "wholes":
                static = tuple(map(int, value))
            elif field["kind"] == "whole":
                static = np.int64(value)
            options.append((field["name"], static))
        given.append(value if array is None else jax.ShapeDtypeStruct(array.shape, array.dtype))
    dtype, results = _load.core.check(index, tuple(given), False)
    named = tuple((r["name"], shape, _of_this_jax(t)) for r, (shape, t) in zip(verb["results"], results))
    made = _Call(index, tuple(options), named, dtype)
    floating = {name: x for name, x in inputs.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    others = {name: x for name, x in inputs.items() if name not in floating}
    wanted = (gradients,) if isinstance(gradients, str) else tuple(gradients)
    if wanted or not verb["results"]:
        return _with_gradients(made, inputs, upstream, wanted)
    if verb["gradients"]:
        values = [_compiled_loss(made, floating, others)]
        if verb["results"][0]["names"]:
            values = [(*jax.lax.stop_gradient(values[0][:-1]), values[0][-1])]
    elif verb["pullback"]:
        values = [_compiled_map(made, floating)]
    else:
        values = made.run(inputs, made.values())
    return _dispatch.finished(index, values, None)


def _with_gradients(made: _Call, inputs: Dict[str, Any], upstream: Any, wanted: Sequence[str]) -> Any:
    """The value and the gradients that were asked for by name: constants."""
    verb = verbs[made.verb]
    for name in wanted:
        if name not in verb["gradients"]:
            raise ValueError(f"{verb['name']}: gradients: expected {', '.join(verb['gradients'])}, got {name}")
        if name not in inputs:
            raise ValueError(f"{verb['name']}: a gradient by {name} needs it as an array")
    inputs = jax.lax.stop_gradient(inputs)
    if not verb["results"]:
        outputs = made.gradients({name: inputs[name] for name in wanted})
        return dict(zip(wanted, made.run(inputs, outputs)))
    value, gradients = _compiled(made, inputs, wanted, upstream)
    return _dispatch.finished(made.verb, [value], gradients)
