"""The verbs of craft on arrays of any library: NumPy, CuPy, PyTorch, JAX, whatever has DLPack or the buffer protocol.

    value, g = craft_align.mmd(x, y, bandwidths=(0.5, 1, 2), gradients=("x", "y"))
    x -= rate * g["x"]

Arrays are matrices whose rows are samples (one dimension: n x 1), of float64, float32, float16 or bfloat16; all
matrices of a call have one type. Values and gradients are computed in, and have, float64 for float64 and float32 for
the others. They are arrays of the library that the first argument belongs to (of NumPy, for those that are no
library's), values with no dimension.

What is copied: nothing. Rows may lie any distance apart, but the numbers of a row lie side by side; others are a
ValueError that says so. Labels and weights may have any stride. Results are this package's memory, which the caller's
library takes over without a copy and keeps as long as it needs it.

Where it runs: arrays in host memory on the calling thread and OpenMP's, with the interpreter's lock released;
OMP_NUM_THREADS says how many, and the results are the same bits for any number. Arrays in CUDA memory in the legacy
default stream of their device, if the package was built for that.

Errors: ValueError (shapes, options, labels), TypeError (element types, what is no array), RuntimeError (a device that
this build has not, arrays on several devices), BufferError (what a library will not export, as a tensor that requires
grad). Nothing is computed then.

These functions do not take part in anybody's automatic differentiation; craft_align.torch and craft_align.jax do. The
losses look at a whole batch: they are not sums over samples.
"""

from __future__ import annotations

import ctypes
import math
from collections import namedtuple
from ctypes import CDLL, POINTER, PyDLL, Structure, byref
from ctypes import c_char_p, c_double, c_int, c_int32, c_int64, c_uint, c_uint64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import _load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    ArrayLike = Any  # with __dlpack__ or the buffer protocol; labels and weights also a sequence of numbers
    Number = Union[float, ArrayLike]  # an array of one number
    Numbers = Union[float, Sequence[float]]

# ----------------------------------------------------------------------------------------------------------------------
# The library under this module (python/core/core.cpp)


_path = _load.library("libcraft_core")
if _path is None:
    raise ImportError("craft_align is not built: there is no libcraft_core beside " + __file__)
_core = CDLL(_path)  # without the interpreter's lock
_held = PyDLL(_path)  # with it


def _declare(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


_failure_kind = _declare(_held, "craft_failure_kind", c_int, c_void_p)
_failure_text = _declare(_held, "craft_failure_text", c_char_p, c_void_p)
_failure_free = _declare(_held, "craft_failure_free", None, c_void_p)
_from_capsule = _declare(_held, "craft_from_capsule", c_void_p, ctypes.py_object, POINTER(c_void_p))
_to_capsule = _declare(_held, "craft_to_capsule", ctypes.py_object, c_void_p, c_int)
_array_free = _declare(_held, "craft_array_free", None, c_void_p)
_array_read_only = _declare(_held, "craft_array_read_only", c_int, c_void_p)
_array_retype = _declare(_held, "craft_array_retype", None, c_void_p, c_int)
_array_ready = _declare(_core, "craft_array_ready", c_void_p, c_void_p, c_int64)
_kernel_new = _declare(
    _core, "craft_kernel_new", c_void_p, c_char_p, c_void_p, c_int64, c_void_p, c_int64, c_double, POINTER(c_void_p)
)
_check_name = _declare(_core, "craft_check_name", c_void_p, c_char_p, c_char_p)
_kernel_free = _declare(_held, "craft_kernel_free", None, c_void_p)
_built_with_cuda = bool(_declare(_held, "craft_built_with_cuda", c_int)())


_capsule_functions = (c_void_p * 5)(
    *(
        ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p)
        for name in ("PyCapsule_IsValid", "PyCapsule_GetPointer", "PyCapsule_SetName", "PyCapsule_New", "PyErr_NoMemory")
    )
)
_held.craft_use(_capsule_functions)


def _check(failure):
    """Raises what a function of the library reported."""
    if failure is None:
        return
    kind, text = _failure_kind(failure), _failure_text(failure).decode("utf-8", "replace")
    _failure_free(failure)
    raise {1: ValueError, 2: TypeError, 4: MemoryError}.get(kind, RuntimeError)(text)


# ----------------------------------------------------------------------------------------------------------------------
# Arrays in and out


class _Tensor(Structure):  # DLTensor
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Array:
    """An array that any library takes without a copy: `numpy.from_dlpack(a)`, `torch.from_dlpack(a)`,
    `jax.dlpack.from_dlpack(a)`.

    It is a result, in memory of its own, or what `as_array` made of another library's array, whose memory it then
    keeps. It lives as long as anything that was made of it.
    """

    __slots__ = ("_address", "_deliver", "__weakref__")

    def __new__(cls, *_, **__):
        raise TypeError("an Array is made by craft_align.as_array")

    def __del__(self, free=_array_free):
        free(self._address)

    @property
    def _tensor(self):
        return _Tensor.from_address(self._address)

    @property
    def shape(self):
        t = self._tensor
        return tuple(t.shape[: t.ndim])

    @property
    def dtype(self):
        """The element type by name, as in "float32"."""
        t = self._tensor
        kind = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}.get(t.code, f"code{t.code}_")
        return kind if kind == "bool" else f"{kind}{t.bits}"

    @property
    def read_only(self):
        """Whether a consumer must not write to it. An array whose library could not say so counts as read-only."""
        return bool(_array_read_only(self._address))

    def __dlpack_device__(self):
        t = self._tensor
        return t.device_type, t.device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A capsule over the memory of this array. CUDA: `stream` waits for the array to be complete."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"an array on DLPack device {self.__dlpack_device__()} cannot be exported to {dl_device}")
        if copy:
            raise BufferError("the array is exported without a copy, or not at all")
        versioned = max_version is not None and max_version[0] >= 1
        if not versioned and self.read_only:
            raise BufferError("the array is read-only, which a consumer that asks for no version cannot be told")
        _check(_array_ready(self._address, 1 if stream is None else stream))
        return _to_capsule(self._address, versioned)

    def __repr__(self):
        return f"craft_align.Array(shape={self.shape}, dtype={self.dtype}, device={self.__dlpack_device__()})"


def _wrap(address, deliver):
    """deliver: makes an array of the library that results belong to."""
    a = object.__new__(Array)
    a._address = address
    a._deliver = deliver
    return a


_unversioned = set()  # types whose __dlpack__ takes no max_version


def as_array(x: ArrayLike) -> Array:
    """x as an Array over the same memory: x has `__dlpack__`, or the buffer protocol (NumPy is then imported).

    All functions of this module do this to their arguments. Do it once yourself where the same array is used in many
    calls: an Array is taken as it is, and results still belong to the library of x.

    A tensor in CUDA memory is asked for in the legacy default stream. Raises TypeError for what is no array,
    BufferError for what its library does not export, RuntimeError for CUDA memory if this package was built without
    CUDA.
    """
    kind = type(x)
    if kind is Array:
        return x
    try:
        where = x.__dlpack_device__()[0]
    except AttributeError:
        return as_array(_from_buffer(x))
    stream = {}
    if where != 1 and where != 3:
        if where != 2 and where != 13:
            raise BufferError(f"expected an array in memory of the CPU or of CUDA, got DLPack device type {int(where)}")
        if not _built_with_cuda:
            raise RuntimeError("the array lies in the memory of a CUDA device, but craft_align was built without CUDA")
        stream = {"stream": 1}
    try:
        if kind in _unversioned:
            capsule = x.__dlpack__(**stream)
        else:
            try:
                capsule = x.__dlpack__(max_version=(1, 0), **stream)
            except TypeError:
                capsule = x.__dlpack__(**stream)
                _unversioned.add(kind)
    except BufferError as error:
        if getattr(x, "requires_grad", False):
            raise BufferError(
                "got a tensor that requires grad, and this function takes no part in automatic differentiation: use the one of "
                "the same name in craft_align.torch (craft_align.torch.mmd instead of craft_align.mmd)"
            ) from error
        # NumPy has no code for the bfloat16 of ml_dtypes.
        if getattr(getattr(x, "dtype", None), "name", None) != "bfloat16" or not hasattr(x, "view"):
            raise
        a = as_array(x.view("uint16"))
        _array_retype(a._address, 4)
        return a
    address = c_void_p()
    _check(_from_capsule(capsule, byref(address)))
    return _wrap(address.value, _importers.get(kind) or _importer(kind))


def _from_buffer(x):
    try:
        memory = memoryview(x)
    except TypeError:
        hint = "; inside a transformation of JAX use craft_align.jax" if "jax" in type(x).__module__ else ""
        raise TypeError(f"expected an array with __dlpack__ or the buffer protocol, got {type(x).__name__}{hint}") from None
    import numpy

    return numpy.asarray(memory)


def _optional(x):
    return None if x is None else as_array(x)


def _listed(x, dtype=None):
    """Labels or weights: an array, or a sequence of numbers."""
    if x is None or hasattr(x, "__dlpack_device__"):
        return _optional(x)
    import numpy

    return as_array(numpy.asarray(x, dtype=dtype))


def _number(x):
    """A number, or an Array that the library reads it from: one in CUDA memory does not come to the host for this."""
    if isinstance(x, (float, int)) or not hasattr(x, "__dlpack_device__") or x.__dlpack_device__()[0] in (1, 3):
        return float(x), None
    return 0.0, as_array(x)


def _address_of(a):
    """Null for what is not given."""
    return None if a is None else a._address


_importers = {}  # by type: what makes an array of that type's library


def _importer(kind):
    library = kind.__module__.partition(".")[0]
    if library == "torch":
        from torch import from_dlpack as found
    elif library in ("jax", "jaxlib"):
        from jax.dlpack import from_dlpack as found
    elif library == "cupy":
        from cupy import from_dlpack as found
    else:
        from numpy import from_dlpack as found
    _importers[kind] = found
    return found


def _deliver(like, results):
    """Results as arrays of the library of `like`, an Array; all are taken over before any is delivered."""
    deliver = like._deliver
    arrays = [None if address is None else _wrap(address, deliver) for address in results]
    return [None if a is None else deliver(a) for a in arrays]


def _wanted(gradients, names):
    """A bit for each of the gradients that are wanted, from the second on: the first result is the value."""
    mask = 0
    for name in (gradients,) if isinstance(gradients, str) else gradients:
        if name not in names:
            raise ValueError(f"gradients: expected some of {', '.join(names)}, got {name!r}")
        mask |= 2 << names.index(name)
    return mask


def _value_and_gradients(like, call, names):
    """The value alone, or also a dictionary of the gradients that were wanted."""
    value, *gradients = _deliver(like, call.results)
    if not call.wanted:
        return value
    return value, {name: g for name, g in zip(names, gradients) if g is not None}


# ----------------------------------------------------------------------------------------------------------------------
# Kernels and options


class _Kernel:
    def __init__(self, family, bandwidths, weights, shape):
        address = c_void_p()
        b, w = (c_double * len(bandwidths))(*bandwidths), (c_double * len(weights))(*weights)
        _check(_kernel_new(_text(family), b, len(bandwidths), w, len(weights), shape, byref(address)))
        self.address = address.value

    def __del__(self, free=_kernel_free):
        if "address" in self.__dict__:
            free(self.address)


_kernel_of = lru_cache(maxsize=128)(_Kernel)


def _numbers(x):
    try:
        return tuple(map(float, x))
    except TypeError:
        return (float(x),)


def _kernel_parameters(family, bandwidths, weights, shape):
    """What a kernel is made of, hashable; one bandwidth of 1 where the family has any and none is given."""
    if bandwidths is None:
        bandwidths = (1.0,) if family in ("gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic") else ()
    return family, _numbers(bandwidths), () if weights is None else _numbers(weights), float(shape)


def _kernel(*parameters):
    return _kernel_of(*_kernel_parameters(*parameters))


def _text(name):
    if not isinstance(name, str):
        raise TypeError(f"expected the name of an option, got {name!r}")
    return name.encode()


class _MmdOptions(Structure):
    _fields_ = [
        ("estimator", c_char_p),
        ("rule", c_char_p),
        ("sample", c_char_p),
        ("columns", c_char_p),
        ("column_eps", c_double),
        ("factor", c_double),
        ("offset", c_double),
        ("bandwidth_gradient", c_int32),
        ("column_gradient", c_int32),
        ("x_weights", c_void_p),
        ("y_weights", c_void_p),
    ]


class _MmdCall(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("y", c_void_p),
        ("kernel", c_void_p),
        ("options", _MmdOptions),
        ("preset", c_char_p),
        ("blur", c_double),
        ("upstream", c_double),
        ("upstream_at", c_void_p),
        ("wanted", c_uint),
        ("results", c_void_p * 7),
    ]


class _BandwidthScaleCall(Structure):
    _fields_ = [("x", c_void_p), ("y", c_void_p), ("rule", c_char_p), ("sample", c_char_p), ("scale", c_double)]


class _AlignmentCall(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("y", c_void_p),
        ("x_labels", c_void_p),
        ("y_labels", c_void_p),
        ("weights", c_void_p),
        ("log_scale", c_double),
        ("log_scale_at", c_void_p),
        ("max_scale", c_double),
        ("bias", c_double),
        ("bias_at", c_void_p),
        ("label_smoothing", c_double),
        ("direction", c_char_p),
        ("reduction", c_char_p),
        ("ignore_label", c_int64),
        ("normalise", c_int32),
        ("upstream", c_double),
        ("upstream_at", c_void_p),
        ("wanted", c_uint),
        ("results", c_void_p * 6),
    ]


class _RelativeCall(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("anchors", c_void_p),
        ("dout", c_void_p),
        ("similarity", c_void_p),
        ("statistics", c_char_p),
        ("normalise", c_int32),
        ("statistics_gradient", c_int32),
        ("log_scale", c_double),
        ("log_scale_at", c_void_p),
        ("max_scale", c_double),
        ("wanted", c_uint),
        ("results", c_void_p * 4),
    ]


class _ObjectiveCall(Structure):
    _fields_ = [
        ("images", c_void_p),
        ("class_texts", c_void_p),
        ("targets", c_void_p),
        ("batch_texts", c_void_p),
        ("image_anchors", c_void_p),
        ("target_images", c_void_p),
        ("kernel", c_void_p),
        ("text", c_double),
        ("image", c_double),
        ("batch", c_double),
        ("mmd", c_double),
        ("log_scale", c_double),
        ("log_scale_at", c_void_p),
        ("max_scale", c_double),
        ("label_smoothing", c_double),
        ("direction", c_char_p),
        ("same_class_positives", c_int32),
        ("discrepancy", _MmdOptions),
        ("upstream", c_double),
        ("upstream_at", c_void_p),
        ("wanted", c_uint),
        ("results", c_void_p * 7),
    ]


class _AnchorsCall(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("labels", c_void_p),
        ("centres", c_void_p),
        ("classes", c_int64),
        ("count", c_int64),
        ("start", c_int64),
        ("metric", c_char_p),
        ("normalise", c_int32),
        ("spherical", c_int32),
        ("seed", c_uint64),
        ("step", c_uint64),
        ("restarts", c_int64),
        ("max_iterations", c_int64),
        ("tolerance", c_double),
        ("start_rows", POINTER(c_int64)),
        ("start_count", c_int64),
        ("inertia", c_double),
        ("iterations", c_int64),
        ("distinct", c_int64),
        ("results", c_void_p * 2),
    ]


def _verb(name, call):
    return _declare(_core, "craft_" + name, c_void_p, POINTER(call))


_mmd = _verb("mmd", _MmdCall)
_bandwidth_scale = _verb("bandwidth_scale", _BandwidthScaleCall)
_info_nce = _verb("info_nce", _AlignmentCall)
_sigmoid_contrastive = _verb("sigmoid_contrastive", _AlignmentCall)
_anchor_cross_entropy = _verb("anchor_cross_entropy", _AlignmentCall)
_relative = _verb("relative", _RelativeCall)
_relative_pullback = _verb("relative_pullback", _RelativeCall)
_objective = _verb("objective", _ObjectiveCall)
_class_means = _verb("class_means", _AnchorsCall)
_kmeans = _verb("kmeans", _AnchorsCall)
_medoids = _verb("medoids", _AnchorsCall)
_farthest_point_anchors = _verb("farthest_point_anchors", _AnchorsCall)
_random_anchors = _verb("random_anchors", _AnchorsCall)

_MMD_GRADIENTS = ("x", "y", "weights", "bandwidths", "x_weights", "y_weights")
_INFO_NCE_GRADIENTS = ("x", "y", "log_scale", "weights")
_SIGMOID_GRADIENTS = ("x", "y", "log_scale", "bias")
_CROSS_ENTROPY_GRADIENTS = ("x", "anchors", "log_scale", "weights", "targets")
_ANCHOR_GRADIENTS = ("x", "anchors", "log_scale")
_OBJECTIVE_GRADIENTS = ("images", "class_texts", "batch_texts", "image_anchors", "target_images", "log_scale")


# ----------------------------------------------------------------------------------------------------------------------
# Maximum mean discrepancy


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
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> Any:
    """MMD^2 of x (n x d) against y (m x d): mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    kernel: "gaussian" exp(-D / (2 s^2)), "laplacian" exp(-sqrt(D) / s), "inverse_multiquadric" c^2 / (c^2 + D),
        "rational_quadratic" (shape: alpha), "energy" -sqrt(D), "dot_product" or "cosine", D the squared distance;
        weighted sums of as many as there are `bandwidths` (one of 1 by default), by `weights` (1 each).
    estimator: "biased", "unbiased" (no diagonal; at least 2 rows each) or "linear".
    bandwidth_rule: D is divided by "fixed" 1, or the "mean", "mean_offdiagonal", "median" or "median_mid" of the
        squared distances within bandwidth_sample ("pooled", or "x"); bandwidth_gradient: whether gradients run through
        that.
    columns: "none", "minmax_separate" or "minmax_joint" scaling of every column to [0, 1] first.
    x_weights (n), y_weights (m): of the samples, >= 0, divided by their sum inside. The value is factor * MMD^2 + offset.
    upstream: dL/dvalue, multiplies the gradients and not the value.
    gradients: of "x", "y", "weights", "bandwidths" (for rational_quadratic length and alpha of each), "x_weights",
        "y_weights" (where none are given, at 1 each; not of the linear estimator).

    Returns the value; with gradients, the value and a dictionary of them, of the shapes of what they belong to.
    Cost: (n + m)^2 d multiply-adds, three times that with gradients; memory O((n + m) d).
    """
    a, b, wx, wy = as_array(x), as_array(y), _listed(x_weights, "float64"), _listed(y_weights, "float64")
    k = _kernel(kernel, bandwidths, weights, shape)
    u, u_at = _number(upstream)
    options = _MmdOptions(
        _text(estimator),
        _text(bandwidth_rule),
        _text(bandwidth_sample),
        _text(columns),
        column_eps,
        factor,
        offset,
        bandwidth_gradient,
        column_gradient,
        _address_of(wx),
        _address_of(wy),
    )
    call = _MmdCall(
        a._address, b._address, k.address, options, None, 0, u, _address_of(u_at), _wanted(gradients, _MMD_GRADIENTS)
    )
    _check(_mmd(call))
    return _value_and_gradients(a, call, _MMD_GRADIENTS)


def mmd_preset(
    x: ArrayLike,
    y: ArrayLike,
    preset: str,
    *,
    blur: float = 0.05,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> Any:
    """MMD^2 with the kernel and conventions of others: "craft_rbf", "craft_multiscale", "tllib", "transferlearning",
    "cmmd", "geomloss_gaussian", "geomloss_laplacian" (these two: `blur`), "geomloss_energy" or "alibi_detect"
    (docs/math.md has the table). Otherwise as `mmd`.
    """
    a, b, wx, wy = as_array(x), as_array(y), _listed(x_weights, "float64"), _listed(y_weights, "float64")
    u, u_at = _number(upstream)
    options = _MmdOptions(x_weights=_address_of(wx), y_weights=_address_of(wy))
    call = _MmdCall(
        a._address, b._address, None, options, _text(preset), blur, u, _address_of(u_at), _wanted(gradients, _MMD_GRADIENTS)
    )
    _check(_mmd(call))
    return _value_and_gradients(a, call, _MMD_GRADIENTS)


def bandwidth_scale(x: ArrayLike, y: ArrayLike, *, rule: str = "median", sample: str = "pooled") -> float:
    """The scale M of squared distances that `mmd` finds by this rule, as a number: to fix it once on a reference
    sample. In squared units of x; a kernel's own bandwidth is then sigma * sqrt(M). ValueError for NaN or infinity.
    """
    a, b = as_array(x), as_array(y)
    call = _BandwidthScaleCall(a._address, b._address, _text(rule), _text(sample))
    _check(_bandwidth_scale(call))
    return call.scale


# ----------------------------------------------------------------------------------------------------------------------
# Alignment losses: z_ij = s cos(x_i, y_j), s = min(exp(log_scale), max_scale). At max_scale and above it the gradient by
# log_scale, times upstream, passes if a step against it leads back inside, and is 0 else.


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
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> Any:
    """Contrastive loss within a batch: mean_i (logsumexp_j z_ij - mean over positives p of i of z_ip).

    x: n x d, y: m x d; z_ij = s cos(x_i, y_j), s = min(exp(log_scale), max_scale); dot products if not normalise. direction: "symmetric"
    (the mean of this and of the same by columns) or "one_way". Row i belongs to row i (n = m), or rows of equal
    x_labels (n) and y_labels (m) belong together. weights (n): per row, >= 0. log_scale: a number, or an array of one.
    At max_scale and above it (where the value is that at max_scale) its gradient, upstream included, passes if a step
    against it leads back inside, and is 0 else: as if log_scale were clamped after each step.
    gradients: of "x", "y", "log_scale", "weights" (where none are given, at 1 each). Returns as `mmd` does.
    Cost: 2 n m d operations, 8 n m d with gradients.
    """
    a, b, w = as_array(x), as_array(y), _listed(weights, "float64")
    lx, ly = _listed(x_labels), _listed(y_labels)
    s, s_at = _number(log_scale)
    u, u_at = _number(upstream)
    call = _AlignmentCall(
        a._address,
        b._address,
        _address_of(lx),
        _address_of(ly),
        _address_of(w),
        s,
        _address_of(s_at),
        max_scale,
        0,
        None,
        label_smoothing,
        _text(direction),
        None,
        0,
        normalise,
        u,
        _address_of(u_at),
        _wanted(gradients, _INFO_NCE_GRADIENTS),
    )
    _check(_info_nce(call))
    return _value_and_gradients(a, call, _INFO_NCE_GRADIENTS)


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
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> Any:
    """Sigmoid loss over all pairs, -(1/n) sum_ij log sigmoid(l_ij (z_ij + bias)); x: n x d, y: m x d.

    l_ij = +1 for pairs that belong together (equal rows, or equal labels), -1 otherwise; z_ij as in `info_nce`.
    log_scale, bias: a number, or an array of one; max_scale as in `info_nce`. gradients: of "x", "y", "log_scale",
    "bias". Cost: 2 n m d operations, 6 n m d with gradients.
    """
    a, b = as_array(x), as_array(y)
    lx, ly = _listed(x_labels), _listed(y_labels)
    s, s_at = _number(log_scale)
    c, c_at = _number(bias)
    u, u_at = _number(upstream)
    call = _AlignmentCall(
        a._address,
        b._address,
        _address_of(lx),
        _address_of(ly),
        None,
        s,
        _address_of(s_at),
        max_scale,
        c,
        _address_of(c_at),
        0,
        None,
        None,
        0,
        normalise,
        u,
        _address_of(u_at),
        _wanted(gradients, _SIGMOID_GRADIENTS),
    )
    _check(_sigmoid_contrastive(call))
    return _value_and_gradients(a, call, _SIGMOID_GRADIENTS)


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
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> Any:
    """Cross-entropy of softmax_c(s cos(x_i, a_c)) against targets: x (n x d) seen through static anchors (C x d).

    targets: n labels in [0, C) or ignore_label (int32 or int64, or a list), or n x C shares of the computing type
    (any numbers). weights (n): per row, >= 0. reduction: "mean" over the weights that take part, or "sum".
    log_scale: a number, or an array of one; max_scale as in `info_nce`. gradients: of "x", "anchors", "log_scale",
    "weights" (where none are given, at 1 each), "targets" (of shares).
    Cost: 2 n C d operations, 8 n C d with gradients.
    """
    a, b, w = as_array(x), as_array(anchors), _listed(weights, "float64")
    t = _listed(targets)
    if t is None:
        raise TypeError("anchor_cross_entropy: targets are labels or an array of shares, got None")
    s, s_at = _number(log_scale)
    u, u_at = _number(upstream)
    call = _AlignmentCall(
        a._address,
        b._address,
        t._address,
        None,
        _address_of(w),
        s,
        _address_of(s_at),
        max_scale,
        0,
        None,
        label_smoothing,
        None,
        _text(reduction),
        ignore_label,
        normalise,
        u,
        _address_of(u_at),
        _wanted(gradients, _CROSS_ENTROPY_GRADIENTS),
    )
    _check(_anchor_cross_entropy(call))
    return _value_and_gradients(a, call, _CROSS_ENTROPY_GRADIENTS)


# ----------------------------------------------------------------------------------------------------------------------
# Relative representation


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
    log_scale: Number = 0.0,
    max_scale: float = math.inf,
) -> Any:
    """min(exp(log_scale), max_scale) k(x_i, a_c), n x C: x (n x d) described by its similarities to anchors (C x d).

    similarity: as `kernel` of `mmd`; with normalise (unit rows) the default is the cosine. statistics of the anchors,
    applied first: "none", "centre" or "standardise". Cost: n C d multiply-adds.
    """
    a, b = as_array(x), as_array(anchors)
    k = _kernel(similarity, bandwidths, weights, shape)
    s, s_at = _number(log_scale)
    call = _RelativeCall(
        a._address, b._address, None, k.address, _text(statistics), normalise, True, s, _address_of(s_at), max_scale, 0
    )
    _check(_relative(call))
    return _deliver(a, call.results)[0]


def relative_pullback(
    x: ArrayLike,
    anchors: ArrayLike,
    dout: ArrayLike,
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
    gradients: str | Sequence[str] = ("x", "anchors"),
) -> dict[str, Any]:
    """Pulls dout (n x C, of the computing type), the gradient of a loss by `relative`, back: a dictionary of the
    gradients of "x", "anchors" and "log_scale" that are wanted; the last at max_scale as in `info_nce`.
    statistics_gradient: whether that of the anchors runs through the statistics. Cost: up to 3 n C d multiply-adds, 2 n C d of dot_product.
    """
    a, b, c = as_array(x), as_array(anchors), as_array(dout)
    k = _kernel(similarity, bandwidths, weights, shape)
    s, s_at = _number(log_scale)
    call = _RelativeCall(
        a._address,
        b._address,
        c._address,
        k.address,
        _text(statistics),
        normalise,
        statistics_gradient,
        s,
        _address_of(s_at),
        max_scale,
        _wanted(gradients, _ANCHOR_GRADIENTS),
    )
    _check(_relative_pullback(call))
    return {name: g for name, g in zip(_ANCHOR_GRADIENTS, _deliver(a, call.results)[1:]) if g is not None}


# ----------------------------------------------------------------------------------------------------------------------
# The objective

ObjectiveValues = namedtuple("ObjectiveValues", ("text", "image", "batch", "mmd", "total"))
ObjectiveValues.__doc__ = "The terms of the objective without their weights, and their weighted sum."


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
    upstream: Number = 1.0,
    gradients: str | Sequence[str] = (),
) -> ObjectiveValues | tuple[ObjectiveValues, dict[str, Any]]:
    """Craft's objective: the weighted sum of three alignment terms and the discrepancy between domains.

        text  * CE(s cos(images, class_texts), targets)
      + image * CE(s cos(batch_texts, image_anchors), targets)
      + batch * InfoNCE(images, batch_texts)
      + mmd   * MMD^2(r(images), r(target_images)),   r = s cos(., class_texts),   s = min(exp(log_scale), max_scale)

    images: n x d, class_texts: C x d, targets: n labels in [0, C), batch_texts: n x d (by default each row's class text),
    image_anchors: C x d (without: no image term), target_images: m x d (without: no discrepancy). direction,
    same_class_positives: of the batch term. kernel and what follows it: of the discrepancy, as in `mmd`.
    gradients: of "images", "class_texts", "batch_texts", "image_anchors", "target_images", "log_scale" (at max_scale as in
    `info_nce`, of the weighted sum).

    Returns ObjectiveValues; with gradients, those and a dictionary. Cost: at most the sum of its parts.
    """
    f, t, y = as_array(images), as_array(class_texts), _listed(targets)
    b, i, g = _optional(batch_texts), _optional(image_anchors), _optional(target_images)
    k = _kernel(kernel, bandwidths, weights, shape)
    s, s_at = _number(log_scale)
    u, u_at = _number(upstream)
    discrepancy = _MmdOptions(
        _text(estimator),
        _text(bandwidth_rule),
        _text(bandwidth_sample),
        _text(columns),
        column_eps,
        factor,
        offset,
        bandwidth_gradient,
        column_gradient,
    )
    call = _ObjectiveCall(
        f._address,
        t._address,
        _address_of(y),
        _address_of(b),
        _address_of(i),
        _address_of(g),
        k.address,
        text,
        image,
        batch,
        mmd,
        s,
        _address_of(s_at),
        max_scale,
        label_smoothing,
        _text(direction),
        same_class_positives,
        discrepancy,
        u,
        _address_of(u_at),
        _wanted(gradients, _OBJECTIVE_GRADIENTS),
    )
    _check(_objective(call))
    out = _value_and_gradients(f, call, _OBJECTIVE_GRADIENTS)
    values, found = out if call.wanted else (out, None)
    values = ObjectiveValues(*values)
    return values if found is None else (values, found)


# ----------------------------------------------------------------------------------------------------------------------
# Anchors

KMeans = namedtuple("KMeans", ("centres", "assignment", "inertia", "iterations", "distinct"))
KMeans.__doc__ = """Centres (k x d), the centre of each row, the sum of squared distances to it, the iterations of the best run, and
how many distinct centres there are: fewer than k only if x has fewer than k different rows. Equal rows share a centre; the
centres that are left over have no rows, and are copies of a row.
"""


def class_means(x: ArrayLike, labels: ArrayLike, classes: int, *, normalise: bool = False) -> Any:
    """Mean of the rows of x (n x d) of each class, classes x d: Craft's static anchors. normalise: unit rows first, and
    unit means. ValueError for a label outside [0, classes) or a class without rows.
    """
    a, y = as_array(x), _listed(labels)
    call = _AnchorsCall(x=a._address, labels=_address_of(y), classes=classes, normalise=normalise)
    _check(_class_means(call))
    return _deliver(a, call.results)[0]


def _kmeans_call(x, y, classes, count, seed, restarts, max_iterations, tolerance, spherical, start):
    call = _AnchorsCall(
        x=x._address,
        labels=_address_of(y),
        classes=classes,
        count=count,
        seed=seed,
        restarts=restarts,
        max_iterations=max_iterations,
        tolerance=tolerance,
        spherical=spherical,
        start_rows=(c_int64 * len(start))(*start),
        start_count=len(start),
    )
    _check(_kmeans(call))
    return call


def kmeans(
    x: ArrayLike,
    k: int,
    *,
    seed: int = 0,
    restarts: int = 10,
    max_iterations: int = 300,
    tolerance: float = 0.0,
    spherical: bool = False,
    start: Sequence[int] = (),
) -> KMeans:
    """k-means of x (n x d) by Lloyd's iteration from k-means++ seeds, or from the rows `start`: KMeans.

    The best of `restarts` runs, each until no row changes its centre, inertia falls by no more than the share `tolerance`,
    or max_iterations. The same seed gives the same bits. spherical: unit rows and centres. ValueError for NaN or infinity
    in x, and, unless spherical, for numbers whose squared distances are not in the range of the type.
    """
    a = as_array(x)
    call = _kmeans_call(a, None, 1, k, seed, restarts, max_iterations, tolerance, spherical, start)
    return KMeans(*_deliver(a, call.results), call.inertia, call.iterations, call.distinct)


def kmeans_per_class(
    x: ArrayLike,
    labels: ArrayLike,
    classes: int,
    per_class: int,
    *,
    seed: int = 0,
    restarts: int = 10,
    max_iterations: int = 300,
    tolerance: float = 0.0,
    spherical: bool = False,
) -> KMeans:
    """k-means within every class: rows [c p, (c + 1) p) of the centres are the p = per_class of class c; KMeans.
    ValueError as kmeans."""
    a, y = as_array(x), _listed(labels)
    if y is None:
        raise TypeError("kmeans_per_class: labels are missing")
    call = _kmeans_call(a, y, classes, per_class, seed, restarts, max_iterations, tolerance, spherical, ())
    return KMeans(*_deliver(a, call.results), call.inertia, call.iterations, call.distinct)


def medoids(x: ArrayLike, centres: ArrayLike) -> Any:
    """The row of x (n x d) nearest to each centre (k x d): k row numbers. ValueError as kmeans."""
    a, b = as_array(x), as_array(centres)
    call = _AnchorsCall(x=a._address, centres=b._address)
    _check(_medoids(call))
    return _deliver(a, call.results)[1]


def farthest_point_anchors(x: ArrayLike, count: int, *, start: int = 0, metric: str = "euclidean") -> Any:
    """`count` row numbers of x (n x d): from row `start` on, always the row whose nearest chosen one is farthest.
    metric: "euclidean" or "cosine". ValueError as kmeans (cosine: as spherical).
    """
    a = as_array(x)
    call = _AnchorsCall(x=a._address, count=count, start=start, metric=_text(metric))
    _check(_farthest_point_anchors(call))
    return _deliver(a, call.results)[1]


def random_anchors(n: int, count: int, *, seed: int = 0, step: int = 0) -> Any:
    """`count` different numbers of n rows, in random order (a NumPy array); step: another draw of the same seed."""
    call = _AnchorsCall(classes=n, count=count, seed=seed, step=step)
    _check(_random_anchors(call))
    import numpy

    return numpy.from_dlpack(_wrap(call.results[1], numpy.from_dlpack))


def stratified_anchors(labels: ArrayLike, classes: int, per_class: int, *, seed: int = 0, step: int = 0) -> Any:
    """`per_class` different row numbers of each class, class after class, in random order within it."""
    y = _listed(labels)
    if y is None:
        raise TypeError("stratified_anchors: labels are missing")
    call = _AnchorsCall(labels=y._address, classes=classes, count=per_class, seed=seed, step=step)
    _check(_random_anchors(call))
    return _deliver(y, call.results)[1]
