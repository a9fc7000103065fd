"""The losses of craft as differentiable functions of JAX.

    loss = lambda x: craft_align.jax.info_nce(x, texts) + craft_align.jax.mmd(x, target, bandwidths=(0.5, 1, 2))
    value, dx = jax.jit(jax.value_and_grad(loss))(x)

Arguments are those of the functions of the same name in craft_align (their docstrings have formulas and options),
without `upstream` and `gradients`: JAX asks for those. Options are static; arrays, `log_scale` and `bias` may be
traced, and are differentiated by: sample weights, row weights and soft targets too, labels not.

Differentiation: reverse mode, once. The forward pass under differentiation computes the value and the gradients that
are asked for in one call, and the backward pass multiplies them by the cotangent. jax.jvp, jax.jacfwd and second
derivatives raise. jax.vmap calls once per element. The losses look at a whole batch: a vmap over rows or a mean over
devices is another loss; under sharding gather the batch first.

A scale is min(exp(log_scale), max_scale). At max_scale and above the gradient by log_scale that the caller gets, the cotangent
included, passes if a step against it leads back inside, and is 0 else: log_scale may start at its bound.

Element types: float64 (with jax_enable_x64), float32, float16, bfloat16. Values are float64 of float64, else float32;
gradients have the types of what they belong to. Nothing is copied.

Where it runs: on the CPU in XLA's thread pool, on a GPU in XLA's stream, if the package was built for that. Nothing
waits.

Errors: shapes, types and options are ValueError and TypeError when a function is traced. What only the values can tell
(a label outside its range) is a jax.errors.JaxRuntimeError of the call.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _load
from . import arrays as _arrays
from .arrays import ObjectiveValues

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from .arrays import Numbers

    Number = ArrayLike

__all__ = [
    "anchor_cross_entropy",
    "info_nce",
    "mmd",
    "objective",
    "relative",
    "sigmoid_contrastive",
]


def _register():
    path = _load.library("libcraft_jax")
    if path is None:
        raise ImportError(
            "craft_align was built without JAX: install it again where this Python imports jax, with --no-build-isolation"
        )
    library = ctypes.CDLL(path)
    verbs = ("mmd", "info_nce", "sigmoid_contrastive", "anchor_cross_entropy", "relative", "relative_pullback", "objective")
    for device, platform in (("cpu", "cpu"), ("cuda", "CUDA")):
        for verb in verbs:
            handler = getattr(library, f"craft_{device}_{verb}", None)
            if handler is not None:
                jax.ffi.register_ffi_target(f"craft_align.{verb}", jax.ffi.pycapsule(handler), platform=platform)


_register()


# ----------------------------------------------------------------------------------------------------------------------
# One call, and its derivative


class _Verb(NamedTuple):
    """What is static about a call: hashable."""

    name: str
    options: tuple  # of names and values
    shape: tuple  # of the value
    dtype: str  # that values are computed in

    def call(self, inputs, outputs):
        attributes = {name: np.array(value, np.float64) if type(value) is tuple else value for name, value in self.options}
        call = jax.ffi.ffi_call("craft_align." + self.name, list(outputs.values()), vmap_method="sequential")
        return call(*inputs.values(), inputs=",".join(inputs), outputs=",".join(outputs), **attributes)

    def value(self):
        return {"value": jax.ShapeDtypeStruct(self.shape, self.dtype)}

    def gradients(self, inputs):
        return {name: jax.ShapeDtypeStruct(x.shape, self.dtype) for name, x in inputs.items()}


def _values(arguments):
    return {name: x.value for name, x in arguments.items()}


def _perturbed(arguments):
    """By which of them is differentiated."""
    return [name for name, x in arguments.items() if x.perturbed]


def _cotangents(gradients, like):
    """In the types of the arguments; none is zero."""
    return {name: gradients[name].astype(x.dtype) if name in gradients else None for name, x in like.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(verb, variables, constants):
    return verb.call(variables | constants, verb.value())[0]


def _loss_forward(verb, variables, constants):
    values, wanted = _values(variables), _perturbed(variables)
    outputs = verb.value() | verb.gradients({name: values[name] for name in wanted})
    if "log_scale" in outputs:  # of the loss, and of its negative: at max_scale not minus the first
        outputs["log_scale"] = jax.ShapeDtypeStruct((2,), verb.dtype)
    value, *gradients = verb.call(values | _values(constants), outputs)
    # Of the arguments only the types are needed later.
    types = {name: jnp.zeros((), x.dtype) for name, x in values.items()}
    return value, (dict(zip(wanted, gradients)), types)


def _loss_backward(verb, residuals, cotangent):
    gradients, types = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None
    if verb.name == "objective":
        cotangent = cotangent[-1]  # of the total
    products = {name: cotangent * g for name, g in gradients.items() if name != "log_scale"}
    if "log_scale" in gradients:
        of_loss, of_negative = gradients["log_scale"]
        products["log_scale"] = jnp.abs(cotangent) * jnp.where(cotangent < 0, of_negative, of_loss)
    return _cotangents(products, types), None


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map(verb, variables):
    return verb.call(variables, verb.value())[0]


def _map_forward(verb, variables):
    values = _values(variables)
    # Which gradients are wanted, as a pytree: the keys are static.
    return verb.call(values, verb.value())[0], (values, {name: None for name in _perturbed(variables)})


def _map_backward(verb, residuals, cotangent):
    values, wanted = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return (None,)
    pullback = verb._replace(name="relative_pullback")
    outputs = verb.gradients({name: values[name] for name in wanted})
    gradients = pullback.call(values | {"dout": cotangent}, outputs)
    return (_cotangents(dict(zip(outputs, gradients)), values),)


_map.defvjp(_map_forward, _map_backward, symbolic_zeros=True)


# ----------------------------------------------------------------------------------------------------------------------
# Arguments


class _Arguments:
    """Checks and collects the arguments of one call, as they come."""

    def __init__(self, verb, **matrices):
        """The first of the matrices says what type and how many columns the others have; None: not given."""
        self.verb, self.constants, self.options = verb, {}, []
        self.variables = {name: jnp.asarray(x) for name, x in matrices.items() if x is not None}
        named = self.variables.items()
        self.refuse(
            TypeError,
            (
                f"{name} holds {x.dtype.name}, expected float64, float32, float16 or bfloat16: convert it (astype)"
                for name, x in named
                if x.dtype.name not in ("float64", "float32", "float16", "bfloat16")
            ),
        )
        self.refuse(
            ValueError,
            (
                f"{name} has {x.ndim} dimensions {x.shape}, expected a matrix with one sample per row"
                + (f": reshape it to ({x.shape[0]}, -1)" if x.ndim else "")
                for name, x in named
                if x.ndim not in (1, 2)
            ),
        )
        self.refuse(ValueError, (f"{name} is empty {x.shape}" for name, x in named if x.size == 0))
        first_name, self.first = next(iter(named))
        for name, x in named:
            if x.dtype != self.first.dtype:
                raise TypeError(f"{verb}: expected {name} of type {self.first.dtype.name}, got {x.dtype.name}")
            if x.shape[1:] != self.first.shape[1:]:
                raise ValueError(
                    f"{verb}: {first_name} is {self.first.shape} and {name} is {x.shape}; their columns must agree"
                )
        self.computing = "float64" if self.first.dtype == "float64" else "float32"

    def refuse(self, error, faults):
        """Raises what is wrong, of all arguments at once."""
        if text := "; ".join(faults):
            raise error(f"{self.verb}: {text}")

    def rows(self, name, rows):
        x = self.variables.get(name)
        if x is not None and x.shape[0] != rows:
            raise ValueError(f"{self.verb}: {name} must have {rows} rows, got {x.shape[0]}")

    def one_per_row(self, name, x, of):
        """x as a constant: as many numbers as the matrix called `of` has rows."""
        if x.ndim != 1:
            raise ValueError(
                f"{self.verb}: {name} has {x.ndim} dimensions {x.shape}, expected one, with a number per row: reshape it to (-1)"
            )
        rows = self.variables[of].shape
        if x.shape[0] != rows[0]:
            raise ValueError(f"{self.verb}: {name}: expected {rows[0]}, one per row of {of} {rows}, got {x.shape[0]}")
        self.constants[name] = x

    def labels(self, name, y, of, otherwise=""):
        """otherwise: what floats could have been."""
        if y is None:
            return
        given, y = y, jnp.asarray(y)
        if not jnp.issubdtype(y.dtype, jnp.integer):
            raise TypeError(
                f"{self.verb}: {name} holds {y.dtype.name} in {y.ndim} dimension{'s' * (y.ndim != 1)}: class labels are integers "
                f"({name}.astype(int)){otherwise}"
            )
        if isinstance(given, np.ndarray) and given.dtype != y.dtype and (given.astype(y.dtype.name) != given).any():
            raise ValueError(
                f"{self.verb}: {name} holds labels beyond {y.dtype.name}, which JAX cuts them off to: number the classes from 0, "
                "or set jax_enable_x64"
            )
        if y.dtype.name not in ("int32", "int64"):  # 64 bits where JAX has them: unsigned ones keep their value
            y = y.astype(jnp.int64 if jax.config.jax_enable_x64 else jnp.int32)
        self.one_per_row(name, y, of)

    def weights(self, name, w, of):
        if w is not None:
            self.one_per_row(name, jnp.asarray(w, self.computing), of)

    def number(self, name, x):
        x = jnp.asarray(x, self.computing)
        if x.size != 1:
            raise ValueError(f"{self.verb}: {name} must be one number, got {x.shape}")
        self.variables[name] = x.reshape(())

    def named(self, **options):
        for name, value in options.items():
            _arrays._check(_arrays._check_name(name.encode(), _arrays._text(value)))
            self.options.append((name, value))

    def numbers(self, **options):
        self.options += [(name, float(value)) for name, value in options.items()]

    def flags(self, **options):
        self.options += [(name, bool(value)) for name, value in options.items()]

    def kernel(self, name, *parameters):
        family, bandwidths, weights, shape = _arrays._kernel_parameters(*parameters)
        _arrays._kernel_of(family, bandwidths, weights, shape)  # refuses what is none
        self.options += [(name, family), ("bandwidths", bandwidths), ("kernel_weights", weights), ("shape", shape)]

    def pairs(self, x_labels, y_labels):
        if (x_labels is None) != (y_labels is None):
            raise ValueError(f"{self.verb}: labels must be given for both sides or for neither")
        x, y = self.variables["x"], self.variables["y"]
        if x_labels is None and x.shape[0] != y.shape[0]:
            raise ValueError(
                f"{self.verb}: without labels row i belongs to row i, but x is {x.shape} and y is {y.shape}: "
                "give as many rows of each, or x_labels and y_labels"
            )
        self.labels("x_labels", x_labels, "x")
        self.labels("y_labels", y_labels, "y")

    def made(self, shape=()):
        return _Verb(self.verb, tuple(self.options), shape, self.computing)

    def loss(self, shape=()):
        # Weights and soft targets have gradients as matrices have; only labels are constants.
        floating = {name: x for name, x in self.constants.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        labels = {name: x for name, x in self.constants.items() if name not in floating}
        return _loss(self.made(shape), self.variables | floating, labels)


# ----------------------------------------------------------------------------------------------------------------------
# The functions


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kernel: str = "gaussian",
    bandwidths: Numbers | None = None,
    weights: Numbers | None = None,
    shape: float = 0.0,
    estimator: str = "biased",
    bandwidth_rule: str = "fixed",
    bandwidth_sample: str = "pooled",
    bandwidth_gradient: bool = False,
    columns: str = "none",
    column_gradient: bool = True,
    column_eps: float = 1e-8,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    factor: float = 1.0,
    offset: float = 0.0,
) -> jax.Array:
    """MMD^2 of x (n x d) against y (m x d): see craft_align.mmd. Kernel and bandwidths are static. Differentiable by x,
    y, x_weights and y_weights (the weights not with the linear estimator)."""
    a = _Arguments("mmd", x=x, y=y)
    a.kernel("kernel", kernel, bandwidths, weights, shape)
    _discrepancy_options(
        a, estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns, column_gradient, column_eps, factor, offset
    )
    a.weights("x_weights", x_weights, "x")
    a.weights("y_weights", y_weights, "y")
    least = 1 if estimator == "biased" else 2
    if min(v.shape[0] for v in a.variables.values()) < least:
        raise ValueError(f"mmd: the {estimator} estimator needs at least {least} rows of each")
    return a.loss()


def _discrepancy_options(a, estimator, rule, sample, bandwidth_gradient, columns, column_gradient, column_eps, factor, offset):
    a.named(estimator=estimator, bandwidth_rule=rule, bandwidth_sample=sample, columns=columns)
    a.flags(bandwidth_gradient=bandwidth_gradient, column_gradient=column_gradient)
    a.numbers(column_eps=column_eps, factor=factor, offset=offset)


def info_nce(
    x: ArrayLike,
    y: ArrayLike,
    *,
    log_scale: Number = math.log(100.0),
    max_scale: float = math.inf,
    normalise: bool = True,
    direction: str = "symmetric",
    x_labels: ArrayLike | None = None,
    y_labels: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Contrastive loss of x (n x d) and y (m x d) within a batch: see craft_align.info_nce. Differentiable by x, y,
    log_scale and weights."""
    a = _Arguments("info_nce", x=x, y=y)
    a.number("log_scale", log_scale)
    a.pairs(x_labels, y_labels)
    a.weights("weights", weights, "x")
    a.named(direction=direction)
    a.flags(normalise=normalise)
    a.numbers(max_scale=max_scale, label_smoothing=label_smoothing)
    return a.loss()


def sigmoid_contrastive(
    x: ArrayLike,
    y: ArrayLike,
    *,
    log_scale: Number = math.log(10.0),
    bias: Number = -10.0,
    max_scale: float = math.inf,
    normalise: bool = True,
    x_labels: ArrayLike | None = None,
    y_labels: ArrayLike | None = None,
) -> jax.Array:
    """Sigmoid loss over all pairs of x (n x d) and y (m x d): see craft_align.sigmoid_contrastive. Differentiable by x,
    y, log_scale and bias.
    """
    a = _Arguments("sigmoid_contrastive", x=x, y=y)
    a.number("log_scale", log_scale)
    a.number("bias", bias)
    a.pairs(x_labels, y_labels)
    a.flags(normalise=normalise)
    a.numbers(max_scale=max_scale)
    return a.loss()


def anchor_cross_entropy(
    x: ArrayLike,
    anchors: ArrayLike,
    targets: ArrayLike,
    *,
    log_scale: Number = math.log(100.0),
    max_scale: float = math.inf,
    normalise: bool = True,
    label_smoothing: float = 0.0,
    ignore_label: int = -100,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy of x (n x d) seen through anchors (C x d): see craft_align.anchor_cross_entropy. targets: n labels,
    or n x C shares. Differentiable by x, anchors, log_scale, weights and shares.
    """
    a = _Arguments("anchor_cross_entropy", x=x, anchors=anchors)
    a.number("log_scale", log_scale)
    rows, classes = a.first.shape[0], a.variables["anchors"].shape[0]
    if jnp.ndim(targets) == 2:
        targets = jnp.asarray(targets, a.computing)
        if targets.shape != (rows, classes):
            raise ValueError(f"anchor_cross_entropy: soft targets must be {(rows, classes)}, got {targets.shape}")
        a.constants["targets"] = targets
    else:
        a.labels("targets", targets, "x", f", soft targets a matrix of {rows} rows and {classes} columns")
    a.weights("weights", weights, "x")
    a.named(reduction=reduction)
    a.flags(normalise=normalise)
    a.numbers(max_scale=max_scale, label_smoothing=label_smoothing)
    a.options.append(("ignore_label", np.int64(ignore_label)))
    return a.loss()


def relative(
    x: ArrayLike,
    anchors: ArrayLike,
    *,
    similarity: str = "dot_product",
    bandwidths: Numbers | None = None,
    weights: Numbers | None = None,
    shape: float = 0.0,
    normalise: bool = True,
    statistics: str = "none",
    statistics_gradient: bool = True,
    log_scale: Number = 0.0,
    max_scale: float = math.inf,
) -> jax.Array:
    """Relative representation of x (n x d) by anchors (C x d), n x C: see craft_align.relative. Differentiable by x,
    anchors and log_scale; the backward pass is one call of its own.
    """
    a = _Arguments("relative", x=x, anchors=anchors)
    anchors = a.variables["anchors"]
    a.number("log_scale", log_scale)
    a.kernel("similarity", similarity, bandwidths, weights, shape)
    a.named(statistics=statistics)
    a.flags(normalise=normalise, statistics_gradient=statistics_gradient)
    a.numbers(max_scale=max_scale)
    if statistics == "standardise" and anchors.shape[0] < 2:
        raise ValueError(f"relative: standardising needs at least 2 anchors, got {anchors.shape[0]}")
    return _map(a.made((a.first.shape[0], anchors.shape[0])), a.variables)


def objective(
    images: ArrayLike,
    class_texts: ArrayLike,
    targets: ArrayLike,
    *,
    batch_texts: ArrayLike | None = None,
    image_anchors: ArrayLike | None = None,
    target_images: ArrayLike | None = None,
    text: float = 1.0,
    image: float = 1.0,
    batch: float = 1.0,
    mmd: float = 1.0,
    log_scale: Number = math.log(100.0),
    max_scale: float = math.inf,
    label_smoothing: float = 0.0,
    direction: str = "one_way",
    same_class_positives: bool = False,
    kernel: str = "gaussian",
    bandwidths: Numbers | None = None,
    weights: Numbers | None = None,
    shape: float = 0.0,
    estimator: str = "biased",
    bandwidth_rule: str = "fixed",
    bandwidth_sample: str = "pooled",
    bandwidth_gradient: bool = False,
    columns: str = "none",
    column_gradient: bool = True,
    column_eps: float = 1e-8,
    factor: float = 1.0,
    offset: float = 0.0,
) -> ObjectiveValues:
    """Craft's objective: see craft_align.objective. Only `total` of the result has a gradient, by all matrices and
    log_scale."""
    a = _Arguments(
        "objective",
        images=images,
        class_texts=class_texts,
        batch_texts=batch_texts,
        image_anchors=image_anchors,
        target_images=target_images,
    )
    a.labels("targets", targets, "images")
    a.rows("batch_texts", a.first.shape[0])
    a.rows("image_anchors", a.variables["class_texts"].shape[0])
    a.number("log_scale", log_scale)
    a.kernel("kernel", kernel, bandwidths, weights, shape)
    _discrepancy_options(
        a, estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns, column_gradient, column_eps, factor, offset
    )
    a.named(direction=direction)
    a.flags(same_class_positives=same_class_positives)
    a.numbers(text=text, image=image, batch=batch, mmd=mmd, max_scale=max_scale, label_smoothing=label_smoothing)
    values = a.loss((5,))
    return ObjectiveValues(*jax.lax.stop_gradient(values[:4]), values[4])
