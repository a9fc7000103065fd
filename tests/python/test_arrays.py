"""craft_align on arrays of NumPy, PyTorch and JAX: values and gradients against formulas written out here, element
types, layouts, ownership of memory, errors."""

import array
import ctypes
import gc
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

import craft_align

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(5)

NUMPY = {"asarray": np.asarray, "broadcast": np.broadcast_to, "type": np.ndarray, "pointer": lambda a: a.__array_interface__["data"][0]}
TORCH = {"asarray": torch.tensor, "broadcast": torch.broadcast_to, "type": torch.Tensor, "pointer": lambda a: a.data_ptr()}
JAX = {
    "asarray": jax.numpy.asarray,
    "broadcast": jax.numpy.broadcast_to,
    "type": jax.Array,
    "pointer": lambda a: a.unsafe_buffer_pointer(),
}
LIBRARIES = pytest.mark.parametrize("library", [NUMPY, TORCH, JAX], ids=["numpy", "torch", "jax"])


def close(a, b, tolerance=1e-10):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    assert a.shape == b.shape
    assert np.all(np.isfinite(b))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.max(np.abs(b), initial=0)))


def slopes(f, x, step=1e-5):
    """Central differences of f by every element of x."""
    x = np.array(x, dtype=float)
    g = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        up = f(x)
        x[i] = kept - step
        g[i] = (up - f(x)) / (2 * step)
        x[i] = kept
    return g


# ---- the formulas, pair by pair

KERNELS = {
    "gaussian": lambda D, s, p: math.exp(-D / (2 * s * s)),
    "laplacian": lambda D, s, p: math.exp(-math.sqrt(max(D, p)) / s),
    "inverse_multiquadric": lambda D, s, p: s * s / (s * s + D + p),
    "rational_quadratic": lambda D, s, p: (1 + D / (2 * p * s * s)) ** -p,
}


def gram(a, b, k):
    return np.array([[k(float(np.sum((u - v) ** 2))) for v in b] for u in a])


def mmd_of(x, y, k, estimator="biased", wx=None, wy=None):
    """Weights may be of any sum."""
    n, m = len(x), len(y)
    if estimator == "linear":
        pairs = min(n, m) // 2
        h = lambda i: (
            gram(x[[2 * i]], x[[2 * i + 1]], k)
            + gram(y[[2 * i]], y[[2 * i + 1]], k)
            - gram(x[[2 * i]], y[[2 * i + 1]], k)
            - gram(x[[2 * i + 1]], y[[2 * i]], k)
        )
        return float(sum(h(i)[0, 0] for i in range(pairs)) / pairs)
    kx, ky, kxy = gram(x, x, k), gram(y, y, k), gram(x, y, k)
    a = np.full(n, 1 / n) if wx is None else np.asarray(wx, float) / np.sum(wx)
    b = np.full(m, 1 / m) if wy is None else np.asarray(wy, float) / np.sum(wy)
    if estimator == "unbiased":
        off = lambda K, a: (a @ K @ a - a * a @ np.diag(K)) / (1 - a @ a)
        return float(off(kx, a) + off(ky, b) - 2 * a @ kxy @ b)
    return float(a @ kx @ a + b @ ky @ b - 2 * a @ kxy @ b)


def gaussians(sigmas, weights=None):
    weights = [1] * len(sigmas) if weights is None else weights
    return lambda D: sum(w * KERNELS["gaussian"](D, s, 0) for w, s in zip(weights, sigmas))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def lse(z, axis):
    top = z.max(axis=axis, keepdims=True)
    return np.squeeze(top + np.log(np.exp(z - top).sum(axis=axis, keepdims=True)), axis)


def info_nce_of(x, y, log_scale, normalise=True, direction="symmetric", lx=None, ly=None, smoothing=0.0, weights=None):
    z = math.exp(log_scale) * (unit(x) @ unit(y).T if normalise else x @ y.T)
    positive = np.eye(len(x)) if lx is None else (np.asarray(lx)[:, None] == np.asarray(ly)[None, :]).astype(float)

    def one_way(z, positive, w):
        w = np.ones(len(z)) if w is None else np.asarray(w, float)
        w = w * (positive.sum(axis=1) > 0)
        total = 0.0
        for i in range(len(z)):
            if w[i] > 0:
                target = (1 - smoothing) * positive[i] / positive[i].sum() + smoothing / z.shape[1]
                total += w[i] * (lse(z[i : i + 1], 1)[0] - target @ z[i])
        return total / w.sum()

    value = one_way(z, positive, weights)
    return value if direction == "one_way" else (value + one_way(z.T, positive.T, weights)) / 2


def sigmoid_of(x, y, log_scale, bias, lx=None, ly=None, normalise=True):
    z = math.exp(log_scale) * (unit(x) @ unit(y).T if normalise else x @ y.T) + bias
    same = np.eye(len(x)) if lx is None else np.asarray(lx)[:, None] == np.asarray(ly)[None, :]
    sign = np.where(same, 1.0, -1.0)
    return float(np.sum(np.log1p(np.exp(-sign * z))) / len(x))


def cross_entropy_of(x, a, shares, log_scale, weights=None, reduction="mean", smoothing=0.0, normalise=True):
    """shares: n x C; rows of zeros take no part."""
    z = math.exp(log_scale) * (unit(x) @ unit(a).T if normalise else x @ a.T)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    w = w * (shares.sum(axis=1) > 0)
    t = (1 - smoothing) * shares + smoothing / len(a)
    losses = [w[i] * (lse(z[i : i + 1], 1)[0] * t[i].sum() - t[i] @ z[i]) for i in range(len(x)) if w[i] > 0]
    return sum(losses) / (w.sum() if reduction == "mean" else 1)


def one_hot(labels, classes):
    return np.array([[float(label == c) for c in range(classes)] for label in labels])


# ---- values and gradients


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("family, shape", [("gaussian", 0), ("laplacian", 1e-3), ("inverse_multiquadric", 0.1), ("rational_quadratic", 1.5)])
def test_mmd(family, shape, estimator):
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(8, 4)) + 0.5
    s, w = (0.7, 1.9), (2.0, 0.5)
    options = dict(kernel=family, bandwidths=s, weights=w, shape=shape, estimator=estimator)
    of = lambda x, y, s, w: mmd_of(x, y, lambda D: sum(b * KERNELS[family](D, a, shape) for a, b in zip(s, w)), estimator)
    parametric = ("shape",) if family == "rational_quadratic" else ()
    value, g = craft_align.mmd(x, y, **options, gradients=("x", "y", "weights", "bandwidths", *parametric))
    close(value, of(x, y, s, w))
    close(craft_align.mmd(x, y, **options), value)
    close(g["x"], slopes(lambda x: of(x, y, s, w), x), 1e-7)
    close(g["y"], slopes(lambda y: of(x, y, s, w), y), 1e-7)
    if parametric:
        by_shape = lambda p: mmd_of(x, y, lambda D: sum(b * KERNELS[family](D, a, float(p)) for a, b in zip(s, w)), estimator)
        close(g["shape"], slopes(by_shape, shape), 1e-7)
    close(g["bandwidths"], slopes(lambda s: of(x, y, s, w), s), 1e-7)
    close(g["weights"], slopes(lambda w: of(x, y, s, w), w), 1e-7)


def kid_of(x, y, length=None, offset=1.0, degree=3):
    k = lambda a, b: (a @ b.T / (a.shape[1] if length is None else length**2) + offset) ** degree  # noqa: E731
    within = lambda q: (q.sum() - np.trace(q)) / (len(q) * (len(q) - 1))  # noqa: E731
    return float(within(k(x, x)) + within(k(y, y)) - 2 * k(x, y).mean())


def test_mmd_by_the_polynomial_kernel():
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(8, 4)) + 0.5
    of = lambda x, y, s, c: kid_of(x, y, s, c, 2)  # noqa: E731
    options = dict(kernel="polynomial", bandwidths=1.5, shape=0.25, degree=2, estimator="unbiased")
    value, g = craft_align.mmd(x, y, **options, gradients=("x", "y", "bandwidths", "shape"))
    close(value, of(x, y, 1.5, 0.25))
    close(g["x"], slopes(lambda x: of(x, y, 1.5, 0.25), x), 1e-7)
    close(g["y"], slopes(lambda y: of(x, y, 1.5, 0.25), y), 1e-7)
    close(g["bandwidths"], slopes(lambda s: of(x, y, float(s[0]), 0.25), [1.5]), 1e-7)
    close(g["shape"], slopes(lambda c: of(x, y, 1.5, float(c)), 0.25), 1e-7)
    # By default an offset of 1, as elsewhere, and none where that is said.
    close(craft_align.mmd(x, y, "polynomial", 2.0, estimator="unbiased"), kid_of(x, y, 2.0))
    close(craft_align.mmd(x, y, "polynomial", 2.0, shape=0, estimator="unbiased"), kid_of(x, y, 2.0, 0.0))
    close(craft_align.mmd_preset(x, y, "kid"), kid_of(x, y))


def test_kernel_inception_distance_is_over_subsets():
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(33, 6)) + 0.2
    kid = craft_align.kernel_inception_distance(x, y, subsets=5, subset_size=20, seed=3)
    rows = lambda n, step: craft_align.random_anchors(n, 20, seed=3, step=step)  # noqa: E731
    close(kid.values, [kid_of(x[rows(40, 2 * q)], y[rows(33, 2 * q + 1)]) for q in range(5)])
    close(kid.mean, np.mean(kid.values))
    close(kid.deviation, np.std(kid.values))
    with pytest.raises(ValueError, match="subsets of 1000 rows cannot be drawn from 40 x 6 and 33 x 6"):
        craft_align.kernel_inception_distance(x, y)


def test_uniformity():
    x = rng.normal(size=(7, 4))

    def of(x, t):
        u = unit(x)
        return math.log(np.mean([math.exp(-t * np.sum((u[i] - u[j]) ** 2)) for i in range(7) for j in range(7) if i != j]))

    value, g = craft_align.uniformity(x, t=3.0, gradients="x", upstream=-2.0)
    close(value, of(x, 3.0))
    close(g["x"], -2 * slopes(lambda x: of(x, 3.0), x), 1e-7)
    close(craft_align.uniformity(x), of(x, 2.0))


def test_mmd_gradient_is_the_sum_over_pairs():
    x, y, s = rng.normal(size=(7, 5)), rng.normal(size=(4, 5)), 1.3
    _, g = craft_align.mmd(x, y, bandwidths=s, gradients=("x", "y"), upstream=-3.0)
    z = np.concatenate([x, y])
    w = np.concatenate([np.full(7, 1 / 7), np.full(4, -1 / 4)])
    expected = np.zeros_like(z)
    for i in range(11):
        for j in range(11):
            k = math.exp(-float(np.sum((z[i] - z[j]) ** 2)) / (2 * s * s))
            expected[i] += -3.0 * 2 * w[i] * w[j] * k * (z[j] - z[i]) / (s * s)
    close(g["x"], expected[:7])
    close(g["y"], expected[7:])


def test_mmd_options():
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) + 1
    k = gaussians((1.0,))
    wx, wy = [1, 0, 2, 3, 1, 1], [0.5, 1, 1, 2, 0.25]
    close(craft_align.mmd(x, y), mmd_of(x, y, k))  # one Gaussian of 1 by default
    close(craft_align.mmd(x, y, x_weights=wx, y_weights=np.float32(wy)), mmd_of(x, y, k, wx=wx, wy=wy))
    close(craft_align.mmd(x, y, factor=1000, offset=2), 1000 * mmd_of(x, y, k) + 2)
    z = np.concatenate([x, y])
    D = np.array([np.sum((a - b) ** 2) for i, a in enumerate(z) for b in z[i + 1 :]])
    scales = {
        "fixed": 1.0,
        "mean": 2 * D.sum() / 121,
        "mean_offdiagonal": D.mean(),
        "median": np.sort(D)[(len(D) - 1) // 2],
        "median_mid": np.median(D),
    }
    for rule, M in scales.items():
        close(craft_align.bandwidth_scale(x, y, bandwidth_rule=rule), M)
        close(craft_align.mmd(x, y, bandwidth_rule=rule), mmd_of(x / math.sqrt(M), y / math.sqrt(M), k))
    inner = np.sort([np.sum((a - b) ** 2) for i, a in enumerate(x) for b in x[i + 1 :]])
    close(craft_align.bandwidth_scale(x, y, bandwidth_sample="x"), inner[(len(inner) - 1) // 2])
    # Through the scale, and with it held fixed.
    mean = lambda x: mmd_of(x / math.sqrt(M_of(x)), y / math.sqrt(M_of(x)), k)
    M_of = lambda x: np.mean([[np.sum((a - b) ** 2) for b in [*x, *y]] for a in [*x, *y]])
    through = craft_align.mmd(x, y, bandwidth_rule="mean", bandwidth_gradient=True, gradients="x")[1]["x"]
    close(through, slopes(mean, x), 1e-7)
    M = M_of(x)
    fixed = craft_align.mmd(x, y, bandwidth_rule="mean", gradients="x")[1]["x"]
    close(fixed, slopes(lambda x: mmd_of(x / math.sqrt(M), y / math.sqrt(M), k), x), 1e-7)
    assert np.max(np.abs(fixed - through)) > 1e-3
    eps = 1e-3
    scaled = lambda a, by: (a - by.min(axis=0)) / (by.max(axis=0) - by.min(axis=0) + eps)
    close(craft_align.mmd(x, y, columns="minmax_separate", column_eps=eps), mmd_of(scaled(x, x), scaled(y, y), k))
    close(craft_align.mmd(x, y, columns="minmax_joint", column_eps=eps), mmd_of(scaled(x, z), scaled(y, z), k))
    held = craft_align.mmd(x, y, columns="minmax_joint", column_gradient=False, column_eps=eps, gradients="x")[1]["x"]
    close(held, slopes(lambda a: mmd_of(scaled(a, z), scaled(y, z), k), x), 1e-7)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_mmd_gradients_by_sample_weights(estimator):
    x, y, k = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) + 1, gaussians((1.0,))
    wx, wy = np.array([1, 0.5, 2, 3, 1, 1]), [0.5, 1, 1, 2, 0.25]
    of = lambda wx, wy: mmd_of(x, y, k, estimator, wx, wy)
    names = ("y_weights", "x_weights", "x")
    value, g = craft_align.mmd(x, y, estimator=estimator, x_weights=wx, y_weights=wy, upstream=-2, gradients=names)
    close(value, of(wx, wy))
    close(g["x_weights"], -2 * slopes(lambda w: of(w, wy), wx), 1e-7)
    close(g["y_weights"], -2 * slopes(lambda w: of(wx, w), wy), 1e-7)
    _, g = craft_align.mmd(np.float32(x), np.float32(y), estimator=estimator, y_weights=wy, gradients=("x_weights", "y_weights"))
    assert g["x_weights"].dtype == g["y_weights"].dtype == np.float32
    close(g["x_weights"], slopes(lambda w: of(w, wy), np.ones(6)), 1e-5)  # of none given: at 1 each
    close(g["y_weights"], slopes(lambda w: of(None, w), wy), 1e-5)
    preset = lambda w: 1000 * mmd_of(x, y, gaussians((10.0,)), wx=w)
    close(craft_align.mmd_preset(x, y, "cmmd", x_weights=wx, gradients="x_weights")[1]["x_weights"], slopes(preset, wx), 1e-5)
    with pytest.raises(ValueError, match="linear-time estimator takes no sample weights, and has no gradient of them"):
        craft_align.mmd(x, y, estimator="linear", gradients="x_weights")


def test_mmd_presets():
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)) + 1
    z = np.concatenate([x, y])
    scaled = lambda a: (a - a.min(axis=0)) / (a.max(axis=0) - a.min(axis=0) + 1e-8)
    multiscale = lambda D: sum(a * a / (a * a + D + 1e-8) for a in (0.2, 0.5, 0.9, 1.3))
    close(craft_align.mmd_preset(x, y, "craft_multiscale"), mmd_of(scaled(x), scaled(y), multiscale))
    M = np.mean([[np.sum((a - b) ** 2) for b in z] for a in z])
    tllib = lambda D: sum(math.exp(-D / (2 * a * M)) for a in (0.125, 0.25, 0.5, 1, 2))
    value, g = craft_align.mmd_preset(x, y, "tllib", gradients=("x",))
    close(value, mmd_of(x, y, tllib, "unbiased") + 2 / 5)
    close(g["x"], slopes(lambda x: mmd_of(x, y, tllib, "unbiased"), x), 1e-7)
    w = [1, 2, 3, 1, 1, 1]
    close(
        craft_align.mmd_preset(x, y, "geomloss_gaussian", blur=0.8, x_weights=w),
        mmd_of(x, y, gaussians((0.8,)), wx=w) / 2,
    )
    with pytest.raises(ValueError, match="preset: expected craft_rbf, .*, got nobody"):
        craft_align.mmd_preset(x, y, "nobody")


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("direction", ["symmetric", "one_way"])
def test_info_nce(direction, normalise):
    x, y, t = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), 1.2
    options = dict(direction=direction, normalise=normalise)
    of = lambda x, y, t: info_nce_of(x, y, t, **options)
    value, g = craft_align.info_nce(x, y, log_scale=t, **options, gradients=("x", "y", "log_scale"))
    close(value, of(x, y, t))
    close(g["x"], slopes(lambda x: of(x, y, t), x), 1e-7)
    close(g["y"], slopes(lambda y: of(x, y, t), y), 1e-7)
    close(g["log_scale"], slopes(lambda t: of(x, y, float(t)), t), 1e-7)
    # Labels, smoothing, weights, and a row that has nobody.
    lx, ly, w = [0, 1, 1, 2, 0, 5], np.array([1, 0, 2, 2, 1, 1], np.int32), [1, 2, 0.5, 0, 1, 3]
    options.update(log_scale=t, x_labels=lx, y_labels=ly, label_smoothing=0.1)
    of = lambda w: info_nce_of(x, y, t, normalise, direction, lx, ly, 0.1, w)
    close(craft_align.info_nce(x, y, **options, weights=w), of(w))
    w[3] = 0.25
    close(craft_align.info_nce(x, y, **options, weights=w, gradients="weights")[1]["weights"], slopes(of, w), 1e-7)
    close(craft_align.info_nce(x, y, **options, gradients="weights")[1]["weights"], slopes(of, np.ones(6)), 1e-7)


def test_scale_is_clamped_and_read_from_arrays():
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    expected = info_nce_of(x, y, math.log(3.0))
    slope = float(slopes(lambda t: info_nce_of(x, y, float(t)), math.log(3.0)))
    for upstream in (1.0, -1.0):  # what leads back inside passes
        value, g = craft_align.info_nce(x, y, log_scale=math.log(7.0), max_scale=3.0, upstream=upstream, gradients="log_scale")
        close(value, expected)
        close(g["log_scale"], max(0.0, upstream * slope), 1e-7)
    close(craft_align.info_nce(x, y), info_nce_of(x, y, math.log(100.0)))  # CLIP's by default
    for t in (np.float64(math.log(3.0)), np.array(math.log(3.0)), np.array([math.log(3.0)])):
        close(craft_align.info_nce(x, y, log_scale=t), expected)
    close(craft_align.info_nce(x, y, log_scale=0), info_nce_of(x, y, 0.0))


def test_sigmoid_contrastive():
    x, y, t, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), 0.8, -1.5
    value, g = craft_align.sigmoid_contrastive(x, y, log_scale=t, bias=b, gradients=("x", "y", "log_scale", "bias"))
    close(value, sigmoid_of(x, y, t, b))
    close(g["x"], slopes(lambda x: sigmoid_of(x, y, t, b), x), 1e-7)
    close(g["y"], slopes(lambda y: sigmoid_of(x, y, t, b), y), 1e-7)
    close(g["log_scale"], slopes(lambda t: sigmoid_of(x, y, float(t), b), t), 1e-7)
    close(g["bias"], slopes(lambda b: sigmoid_of(x, y, t, float(b)), b), 1e-7)
    close(craft_align.sigmoid_contrastive(x, y), sigmoid_of(x, y, math.log(10.0), -10.0))
    lx, ly, wide = [0, 1, 1, 2, 0], [1, 0, 2], rng.normal(size=(3, 3))
    close(
        craft_align.sigmoid_contrastive(x, wide, log_scale=t, bias=b, x_labels=lx, y_labels=ly, normalise=False),
        sigmoid_of(x, wide, t, b, lx, ly, False),
    )


def test_anchor_cross_entropy():
    x, a, t, y = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), 1.1, [0, 2, -100, 1, 1, 2]
    shares = one_hot(y, 3)
    of = lambda x, a, t: cross_entropy_of(x, a, shares, t)
    value, g = craft_align.anchor_cross_entropy(x, a, y, log_scale=t, gradients=("x", "anchors", "log_scale"))
    close(value, of(x, a, t))
    close(g["x"], slopes(lambda x: of(x, a, t), x), 1e-7)
    assert not g["x"][2].any()
    close(g["anchors"], slopes(lambda a: of(x, a, t), a), 1e-7)
    close(g["log_scale"], slopes(lambda t: of(x, a, float(t)), t), 1e-7)
    w = [1, 0, 2, 0.5, 3, 1]
    close(
        craft_align.anchor_cross_entropy(x, a, y, log_scale=t, weights=w, label_smoothing=0.2, normalise=False),
        cross_entropy_of(x, a, shares, t, w, "mean", 0.2, False),
    )
    close(
        craft_align.anchor_cross_entropy(x, a, y, log_scale=t, reduction="sum"), cross_entropy_of(x, a, shares, t, None, "sum")
    )
    y = np.array(y, np.int32)
    y[2] = 7
    close(craft_align.anchor_cross_entropy(x, a, y, log_scale=t, ignore_label=7), of(x, a, t))
    soft = rng.dirichlet(np.ones(3), size=6)
    value, g = craft_align.anchor_cross_entropy(x, a, soft, log_scale=t, gradients="anchors")
    close(value, cross_entropy_of(x, a, soft, t))
    close(g["anchors"], slopes(lambda a: cross_entropy_of(x, a, soft, t), a), 1e-7)
    # By weights and shares.
    w = np.array([1, 0.5, 2, 0.5, 3, 1])
    for reduction in ("mean", "sum"):
        options = dict(log_scale=t, weights=w, reduction=reduction, label_smoothing=0.2)
        of = lambda shares, w: cross_entropy_of(x, a, shares, t, w, reduction, 0.2)
        _, g = craft_align.anchor_cross_entropy(x, a, soft, **options, gradients=("targets", "weights"))
        close(g["targets"], slopes(lambda s: of(s, w), soft), 1e-7)
        close(g["weights"], slopes(lambda w: of(soft, w), w), 1e-7)
        _, g = craft_align.anchor_cross_entropy(x, a, y, ignore_label=7, **options, gradients="weights")
        close(g["weights"], slopes(lambda w: of(shares, w), w), 1e-7)
        assert g["weights"][2] == 0  # ignored
    with pytest.raises(ValueError, match="no gradient of targets: labels have none, only shares have"):
        craft_align.anchor_cross_entropy(x, a, y, ignore_label=7, gradients="targets")


def relative_of(x, a, t, similarity, normalise, statistics):
    if statistics != "none":
        mean, deviation = a.mean(axis=0), a.std(axis=0, ddof=1)
        x, a = x - mean, a - mean
        if statistics == "standardise":
            x, a = x / deviation, a / deviation
    if normalise:
        x, a = unit(x), unit(a)
    return math.exp(t) * np.array([[similarity(u, v) for v in a] for u in x])


@pytest.mark.parametrize("statistics", ["none", "centre", "standardise"])
@pytest.mark.parametrize(
    "name, similarity",
    [
        ("dot_product", lambda u, v: u @ v),
        ("energy", lambda u, v: -math.sqrt(np.sum((u - v) ** 2))),
        ("cosine", lambda u, v: u @ v / math.sqrt((u @ u) * (v @ v))),
        ("gaussian", lambda u, v: math.exp(-np.sum((u - v) ** 2) / 2)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_relative(name, similarity, statistics):
    x, a, t, u = rng.normal(size=(5, 4)), rng.normal(size=(3, 4)), 0.3, rng.normal(size=(5, 3))
    for normalise in (True, False):
        options = dict(similarity=name, normalise=normalise, statistics=statistics, log_scale=t)
        of = lambda x, a, t: relative_of(x, a, t, similarity, normalise, statistics)
        close(craft_align.relative(x, a, **options), of(x, a, t))
        g = craft_align.relative_pullback(x, a, u, **options, gradients=("x", "anchors", "log_scale"))
        close(g["x"], slopes(lambda x: np.sum(u * of(x, a, t)), x), 1e-6)
        close(g["anchors"], slopes(lambda a: np.sum(u * of(x, a, t)), a), 1e-6)
        close(g["log_scale"], slopes(lambda t: np.sum(u * of(x, a, float(t))), t), 1e-6)
    # Craft's own by default: the cosine, unscaled.
    close(craft_align.relative(x, a), unit(x) @ unit(a).T)
    assert set(craft_align.relative_pullback(x, a, u)) == {"x", "anchors"}


def test_objective():
    f, t, y = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), [0, 2, 1, 1, 0, 2]
    u, a, g = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    weights = dict(text=0.5, image=2.0, batch=1.5, mmd=3.0)
    s, shares = 0.7, one_hot(y, 3)

    def terms(f, t, u, a, g, s):
        return (
            cross_entropy_of(f, t, shares, s),
            cross_entropy_of(u, a, shares, s),
            info_nce_of(f, u, s, direction="one_way"),
            mmd_of(relative_of(f, t, s, np.dot, True, "none"), relative_of(g, t, s, np.dot, True, "none"), gaussians((0.5, 2.0))),
        )

    total = lambda *p: float(np.dot(terms(*p), list(weights.values())))
    everything = ("images", "class_texts", "batch_texts", "image_anchors", "target_images", "log_scale")
    values, d = craft_align.objective(
        f, t, y, batch_texts=u, image_anchors=a, target_images=g, log_scale=s, bandwidths=(0.5, 2.0), **weights, gradients=everything
    )
    assert isinstance(values, craft_align.ObjectiveResult)
    close([float(v) for v in values], [*terms(f, t, u, a, g, s), total(f, t, u, a, g, s)])
    parameters = [f, t, u, a, g, s]
    for k, name in enumerate(everything):
        close(d[name], slopes(lambda p: total(*parameters[:k], p if p.ndim else float(p), *parameters[k + 1 :]), parameters[k]), 1e-6)
    # Without the optional inputs: each image's class text, no image term, no discrepancy.
    short = craft_align.objective(f, t, y, log_scale=s)
    close(float(short.batch), info_nce_of(f, t[y], s, direction="one_way"))
    assert float(short.image) == 0 and float(short.mmd) == 0
    close(float(short.total), float(short.text) + float(short.batch))
    assert isinstance(craft_align.objective(torch.tensor(f), torch.tensor(t), torch.tensor(y)).total, torch.Tensor)


# ---- anchors


def test_class_means():
    x, y = rng.normal(size=(7, 3)), np.array([0, 1, 1, 2, 0, 2, 2])
    close(craft_align.class_means(x, y, 3), [x[y == c].mean(axis=0) for c in range(3)])
    close(craft_align.class_means(x, y, 3, normalise=True), unit(np.array([unit(x)[y == c].mean(axis=0) for c in range(3)])))
    with pytest.raises(ValueError, match="class 3 has no rows"):
        craft_align.class_means(x, y, 4)
    with pytest.raises(IndexError, match=r"labels\[3\] is 2, expected 0 to 1"):
        craft_align.class_means(x, y, 2)
    with pytest.raises(ValueError, match="no rows"):
        craft_align.class_means(x, y, 0)
    with pytest.raises((MemoryError, ValueError)):
        craft_align.class_means(x, y, 2**62)
    with pytest.raises(ValueError, match="classes must not be negative"):
        craft_align.class_means(x, y, -1)


@LIBRARIES
def test_kmeans(library):
    middles = np.array([[0.0, 0], [9, 0], [0, 9]])
    x = np.concatenate([m + rng.normal(size=(10, 2)) for m in middles])
    found = craft_align.kmeans(library["asarray"](x), 3, seed=1)
    assert isinstance(found, tuple) and found._fields == ("centres", "assignment", "inertia", "iterations", "distinct")
    assert isinstance(found.centres, library["type"]) and isinstance(found.assignment, library["type"])
    centres, assignment = np.asarray(found.centres), np.asarray(found.assignment)
    distances = np.array([[np.sum((a - c) ** 2) for c in centres] for a in x])
    assert (assignment == distances.argmin(axis=1)).all()
    close(found.inertia, distances.min(axis=1).sum())
    close(centres, [x[assignment == c].mean(axis=0) for c in range(3)])
    assert sorted(np.bincount(assignment)) == [10, 10, 10]
    assert found.iterations >= 1
    again = craft_align.kmeans(library["asarray"](x), 3, seed=1)
    assert (np.asarray(again.centres) == centres).all()
    started = craft_align.kmeans(x, 3, start=[0, 10, 20])
    assert (started.assignment == np.repeat([0, 1, 2], 10)).all()

    y = np.repeat([1, 0, 2], 10)
    per_class = craft_align.kmeans_per_class(library["asarray"](x), library["asarray"](y), 3, 2)
    assert np.asarray(per_class.centres).shape == (6, 2)
    assert (np.asarray(per_class.assignment) // 2 == y).all()
    close(
        craft_align.kmeans_per_class(x, y, 3, 1).centres, [x[10:20].mean(axis=0), x[:10].mean(axis=0), x[20:].mean(axis=0)]
    )
    assert (np.asarray(craft_align.medoids(library["asarray"](x), found.centres)) == distances.argmin(axis=0)).all()
    assert found.distinct == 3 and per_class.distinct == 6
    with pytest.raises(ValueError, match="expected 1 to 30 centres"):
        craft_align.kmeans(x, 31)
    with pytest.raises(ValueError, match="k must not be negative"):
        craft_align.kmeans(x, -1)
    with pytest.raises(ValueError, match="class 0 has 10 rows, expected at least 11"):
        craft_align.kmeans_per_class(x, y, 3, 11)


@LIBRARIES
def test_kmeans_of_few_different_rows(library):
    x = np.array([[0.1], [0.1], [1.0], [2.0]])
    found = craft_align.kmeans(library["asarray"](x), 4)
    assignment = np.asarray(found.assignment)
    assert found.distinct == 3 and found.inertia == 0
    assert assignment[0] == assignment[1] and len(set(assignment)) == 3
    assert set(np.asarray(found.centres).ravel()) == {0.1, 1, 2}
    per_class = craft_align.kmeans_per_class(library["asarray"](x), [0, 0, 1, 1], 2, 2)
    assert per_class.distinct == 3
    assert list(np.asarray(per_class.centres)[:2].ravel()) == [0.1, 0.1]


def test_anchors_refuse_numbers():
    x = rng.normal(size=(9, 2))
    bad, y = x.copy(), np.arange(9) % 3
    bad[5, 1] = np.nan
    for call in (
        lambda z: craft_align.kmeans(z, 3),
        lambda z: craft_align.kmeans_per_class(z, y, 3, 2),
        lambda z: craft_align.medoids(z, x),
        lambda z: craft_align.farthest_point_anchors(z, 3),
    ):
        with pytest.raises(ValueError, match="not finite at row 5, column 1"):
            call(bad)
        with pytest.raises(ValueError, match="largest number.*e[+]200; .* in double.*power of two"):
            call(1e200 * x)
    with pytest.raises(ValueError, match="y has a number that is not finite at row 5, column 1"):
        craft_align.bandwidth_scale(x, bad)


def test_chosen_rows():
    x = rng.normal(size=(20, 3))
    chosen = [4]
    while len(chosen) < 6:
        chosen.append(int(np.argmax([min(np.linalg.norm(a - x[c]) for c in chosen) for a in x])))
    assert list(craft_align.farthest_point_anchors(x, 6, start=4)) == chosen
    scaled = x * rng.uniform(0.1, 10, size=(20, 1))
    assert list(craft_align.farthest_point_anchors(unit(x), 5)) == list(
        craft_align.farthest_point_anchors(scaled, 5, metric="cosine")
    )
    with pytest.raises(ValueError, match="metric: expected euclidean or cosine, got manhattan"):
        craft_align.farthest_point_anchors(x, 3, metric="manhattan")

    drawn = craft_align.random_anchors(50, 20, seed=3)
    assert len(set(drawn.tolist())) == 20 and 0 <= drawn.min() and drawn.max() < 50
    assert (drawn == craft_align.random_anchors(50, 20, seed=3)).all()
    assert (drawn != craft_align.random_anchors(50, 20, seed=3, step=1)).any()
    y = rng.permutation(np.repeat([0, 1, 2], 7))
    rows = craft_align.stratified_anchors(y, 3, 4, seed=3)
    assert (y[rows] == np.repeat([0, 1, 2], 4)).all() and len(set(rows.tolist())) == 12
    assert isinstance(craft_align.stratified_anchors(torch.tensor(y), 3, 4), torch.Tensor)
    with pytest.raises(ValueError, match="expected 0 to 50 anchors"):
        craft_align.random_anchors(50, 51)


# ---- libraries, element types, layouts


@LIBRARIES
def test_results_belong_to_the_callers_library(library):
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    a, b = library["asarray"](x), library["asarray"](y)
    value, g = craft_align.mmd(a, b, gradients=("x", "y"))
    expected, expected_g = craft_align.mmd(x, y, gradients=("x", "y"))
    assert isinstance(value, library["type"]) and value.shape == ()
    assert float(value) == float(expected)
    for name in ("x", "y"):
        assert isinstance(g[name], library["type"])
        assert (np.asarray(g[name]) == expected_g[name]).all()
    assert isinstance(craft_align.relative(a, b), library["type"])
    test = craft_align.two_sample_test(a, b, permutations=20)
    assert isinstance(test.permuted, library["type"]) and test.permuted.shape == (20,)
    assert float(test.p_value) == craft_align.two_sample_test(x, y, permutations=20).p_value


OTHER = {"numpy": TORCH, "torch": NUMPY, "jax": TORCH}


@LIBRARIES
def test_arrays_of_several_libraries_are_refused(library, request):
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    other = OTHER[request.node.callspec.id]["asarray"](y)
    with pytest.raises(TypeError, match=r"^mmd: y is a (torch.Tensor|numpy.ndarray)[^;]*$"):
        craft_align.mmd(library["asarray"](x), other)
    with pytest.raises(TypeError, match="mmd: y is a list"):
        craft_align.mmd(library["asarray"](x), y.tolist())


@LIBRARIES
def test_results_are_not_copied_and_stay(library):
    x = library["asarray"](rng.normal(size=(6, 4)))
    result = craft_align.mmd(x, x + 1, gradients="x")[1]["x"]
    if library is not JAX or not isinstance(x, jax.Array):
        assert library["pointer"](result) % 64 == 0
    before = np.asarray(result).copy()
    gc.collect()
    craft_align.mmd(x, x, gradients=("x", "y"))  # memory that was freed would be reused here
    assert (np.asarray(result) == before).all()


def test_results_may_be_written():
    x = rng.normal(size=(3, 2))
    _, g = craft_align.mmd(x, x + 1, gradients="x")
    g["x"] *= 2
    _, g = craft_align.mmd(torch.tensor(x), torch.tensor(x + 1), gradients="x")
    g["x"] *= 2


TYPES = {
    "float64": (np.float64, torch.float64, jax.numpy.float64),
    "float32": (np.float32, torch.float32, jax.numpy.float32),
    "float16": (np.float16, torch.float16, jax.numpy.float16),
    "bfloat16": (ml_dtypes.bfloat16, torch.bfloat16, jax.numpy.bfloat16),
}


@pytest.mark.parametrize("name", TYPES)
def test_element_types(name):
    numpy_type, torch_type, jax_type = TYPES[name]
    exact = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    x, y = (a.astype(numpy_type) for a in exact)
    computing = "float64" if name == "float64" else "float32"
    tolerance = 1e-12 if name == "float64" else 1e-5
    expected, expected_g = craft_align.mmd(x.astype(float), y.astype(float), gradients=("x", "y"))
    for a, b in (
        (x, y),
        (torch.tensor(x.astype(float)).to(torch_type), torch.tensor(y.astype(float)).to(torch_type)),
        (jax.numpy.asarray(x, jax_type), jax.numpy.asarray(y, jax_type)),
    ):
        value, g = craft_align.mmd(a, b, gradients=("x", "y"))
        assert str(value.dtype).removeprefix("torch.") == computing
        assert str(g["x"].dtype).removeprefix("torch.") == computing
        close(value, float(expected), tolerance)
        close(g["x"], expected_g["x"], tolerance)
        close(g["y"], expected_g["y"], tolerance)
        close(craft_align.relative(a, b), unit(x.astype(float)) @ unit(y.astype(float)).T, tolerance)
    with pytest.raises(TypeError, match=f"mmd: expected y of type {name}, got "):
        craft_align.mmd(x, y.astype(np.float32 if name != "float32" else np.float64))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.complex64, np.bool_])
def test_other_element_types_are_refused(dtype):
    x = np.ones((3, 2), dtype)
    name = np.dtype(dtype).name
    with pytest.raises(TypeError, match=f"^mmd: x holds {name}, expected float64, float32, float16 or bfloat16.*; y holds {name}"):
        craft_align.mmd(x, x)
    if dtype not in (np.int64, np.int32):
        with pytest.raises(TypeError, match=f"class_means: labels holds {name}, expected labels of int64 or int32"):
            craft_align.class_means(np.ones((3, 2)), np.zeros(3, dtype), 1)


@LIBRARIES
def test_layouts(library):
    x, y = rng.normal(size=(8, 9)), rng.normal(size=(6, 4))
    expected = float(craft_align.mmd(x[2:8, 3:7].copy(), y))
    whole = library["asarray"](x)
    assert float(craft_align.mmd(whole[2:8, 3:7], library["asarray"](y))) == expected  # rows apart, behind an offset
    every_second = float(craft_align.mmd(x[::2, :4].copy(), y))
    assert float(craft_align.mmd(whole[::2, :4], library["asarray"](y))) == every_second
    column = float(craft_align.mmd(x[:, :1].copy(), x[:5, 1:2].copy()))
    assert float(craft_align.mmd(whole[:, :1], whole[:5, 1:2])) == column
    with pytest.raises(ValueError, match=r"x has 1 dimension \(8,\), expected a matrix .*: reshape it to \(-1, 1\), or to \(1, -1\)"):
        craft_align.mmd(whole[:, 0], whole[:5, :1])  # n samples of one number, or one sample of n?


def test_layouts_that_are_refused():
    x = rng.normal(size=(5, 4))
    for a, text in (
        (np.asfortranarray(x), "side by side, got a stride of 5"),
        (x[:, ::2], "side by side, got a stride of 2"),
        (x[:, ::-1], "side by side, got a stride of -1"),
        (x[::-1], "backwards, got a stride of -4"),
        (np.broadcast_to(x[0], (5, 4)), r"got a stride of 0 \(all rows are one, as broadcasting makes\)"),
        (x[None], r"has 3 dimensions \(1, 5, 4\), expected a matrix with one sample per row: reshape it to \(1, -1\)"),
        (x[0, 0:1].reshape(()), r"has 0 dimensions \(\), expected a matrix"),
    ):
        with pytest.raises(ValueError, match="mmd: x.* " + text):
            craft_align.mmd(a, x)
        with pytest.raises(ValueError, match="mmd: y.* " + text):
            craft_align.mmd(x, a)
        with pytest.raises(ValueError, match=f"^mmd: x.* {text}.*; y.* {text}"):  # all that are at fault
            craft_align.mmd(a, a)
        if a.ndim == 2:
            with pytest.raises(ValueError, match=r"copy it first \(numpy.ascontiguousarray, or contiguous\(\) of PyTorch\)"):
                craft_align.mmd(a, x)
            compact = np.ascontiguousarray(a)
            assert math.isfinite(craft_align.mmd(compact, compact[:3]))  # what the message says helps
    misaligned = np.frombuffer(bytes(1) + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(5, 4)
    if misaligned.__array_interface__["data"][0] % 8:
        with pytest.raises(ValueError, match="misaligned"):
            craft_align.mmd(misaligned, x)
    for empty in (np.zeros((0, 4)), np.zeros((4, 0)), np.zeros((2**40, 0))):
        with pytest.raises(ValueError, match="mmd: x is empty|their columns must agree"):
            craft_align.mmd(empty, x, gradients=("x", "y"))


@LIBRARIES
def test_labels_and_weights_may_have_any_stride(library):
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    columns = np.array([[0, 9, 1], [2, 9, 0], [1, 9, 2], [1, 9, 1], [0, 9, 0], [2, 9, 2]])
    shares = rng.uniform(size=(6, 3))
    whole, of_rows = library["asarray"](columns), library["asarray"](shares)
    lists = [
        (whole[:, 0], of_rows[:, 1], columns[:, 0], shares[:, 1]),
        (whole[::-1, 2], of_rows[::-1, 0], columns[::-1, 2], shares[::-1, 0]) if library is not TORCH else None,
        (whole[:, 2], of_rows[:1, 2], columns[:, 2], np.full(6, shares[0, 2])),  # one for all
    ]
    for list_ in lists:
        if list_ is None:  # PyTorch has no negative strides
            continue
        labels, weights, plain_labels, plain_weights = list_
        if weights.shape[0] == 1:
            weights = library["broadcast"](weights, (6,))
        compact = np.ascontiguousarray(plain_labels), np.ascontiguousarray(plain_weights)
        for f in (
            lambda x, y, labels, weights: craft_align.mmd(x, y, x_weights=weights),
            lambda x, y, labels, weights: craft_align.anchor_cross_entropy(x, y, labels, weights=weights),
            lambda x, y, labels, weights: craft_align.info_nce(x, x, x_labels=labels, y_labels=labels, weights=weights),
            lambda x, y, labels, weights: craft_align.sigmoid_contrastive(x, x, x_labels=labels, y_labels=labels),
            lambda x, y, labels, weights: np.asarray(craft_align.class_means(x, labels, 3)).sum(),
            lambda x, y, labels, weights: np.asarray(craft_align.kmeans_per_class(x, labels, 3, 1).centres).sum(),
            lambda x, y, labels, weights: craft_align.stratified_anchors(labels, 3, 1).sum(),
        ):
            assert float(f(library["asarray"](a), library["asarray"](b), labels, weights)) == float(f(a, b, *compact))


def test_misaligned_memory_is_refused():
    x = np.zeros(65, np.uint8)
    offset = 1 if x.__array_interface__["data"][0] % 8 != 7 else 2
    shifted = x[offset : offset + 56].view(np.float64).reshape(7, 1)
    assert shifted.__array_interface__["data"][0] % 8
    with pytest.raises(ValueError, match="misaligned"):
        craft_align.mmd(shifted, shifted)


def test_buffers_and_read_only_arrays():
    x = rng.normal(size=(4, 3))
    expected = float(craft_align.mmd(x, x + 1))
    flat = array.array("d", x.ravel())
    result = craft_align.mmd(memoryview(flat).cast("B").cast("d", (4, 3)), x + 1)
    assert isinstance(result, np.ndarray) and float(result) == expected
    weights = array.array("d", [1, 2, 3, 4])
    assert float(craft_align.mmd(x, x + 1, x_weights=weights)) == float(craft_align.mmd(x, x + 1, x_weights=[1, 2, 3, 4]))
    frozen = x.copy()
    frozen.flags.writeable = False
    assert float(craft_align.mmd(frozen, x + 1)) == expected


# ---- capsules and ownership


class Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class Unversioned(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("version", Version),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
interpreter = ctypes.PyDLL(None)  # not ctypes.pythonapi, whose functions others declare too
new_capsule = interpreter.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
name_of = interpreter.PyCapsule_GetName
name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
pointer_of = interpreter.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Producer:
    """A library of its own: hands out capsules over a NumPy array, in the old or new form, and counts what comes back."""

    def __init__(self, x, versioned=True, strides=True, device=(1, 0), version=(1, 0), flags=0, name=None):
        self.x, self.versioned, self.device = x, versioned, device
        self.deleted, self.asked, self.capsules = 0, [], []
        self.managed = (Versioned if versioned else Unversioned)()
        self.deleter = DELETER(self.count)
        self.managed.deleter = ctypes.cast(self.deleter, ctypes.c_void_p)
        if versioned:
            self.managed.version, self.managed.flags = Version(*version), flags
        self.name = name or (b"dltensor_versioned" if versioned else b"dltensor")
        self.shape = (ctypes.c_int64 * x.ndim)(*x.shape)
        self.strides = (ctypes.c_int64 * x.ndim)(*(s // x.itemsize for s in x.strides))
        t = self.managed.tensor
        t.data, t.byte_offset = x.__array_interface__["data"][0] - 64, 64
        t.device_type, t.device_id = device
        t.ndim, t.code, t.bits, t.lanes = x.ndim, 2, 8 * x.itemsize, 1
        t.shape = ctypes.addressof(self.shape)
        t.strides = ctypes.addressof(self.strides) if strides else None

    def count(self, _):
        self.deleted += 1

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **asked):
        if not self.versioned and "max_version" in asked:
            raise TypeError("unexpected keyword argument max_version")
        self.asked.append(asked)
        self.capsules.append(new_capsule(ctypes.addressof(self.managed), self.name, None))
        return self.capsules[-1]


@pytest.mark.parametrize("strides", [True, False])
@pytest.mark.parametrize("versioned", [True, False])
def test_capsules_are_used_once_and_given_back(versioned, strides):
    x = rng.normal(size=(5, 3))
    p = Producer(x, versioned, strides)
    expected = float(craft_align.mmd(x, x + 1))
    assert float(craft_align.mmd(p, x + 1)) == expected
    assert p.deleted == 1
    for _ in range(3):
        assert float(craft_align.mmd(p, x + 1)) == expected
    assert p.deleted == 4


def test_capsules_that_are_refused():
    x = rng.normal(size=(5, 3))
    minor = Producer(x, version=(1, 9))
    craft_align.mmd(minor, x)
    assert minor.deleted == 1
    for name in (b"used_dltensor", b"something_else"):
        with pytest.raises(TypeError, match="x is a .*Producer that its library does not export"):
            craft_align.mmd(Producer(x, name=name), x)

    class NotACapsule(Producer):
        def __dlpack__(self, **_):
            return self

    with pytest.raises(TypeError, match="x is a .*NotACapsule that its library does not export"):
        craft_align.mmd(NotACapsule(x), x)
    # A verb that fails gives back as well.
    p = Producer(x)
    with pytest.raises(ValueError, match="columns must agree"):
        craft_align.mmd(p, x[:, :2].copy())
    assert p.deleted == 1


def test_devices_that_are_refused():
    x = rng.normal(size=(5, 3))
    for device in ((2, 0), (13, 1)):
        p = Producer(x, device=device)
        with pytest.raises(RuntimeError, match="CUDA device, but craft_align was built without CUDA"):
            craft_align.mmd(p, x)
        with pytest.raises(RuntimeError, match="built without CUDA"):
            craft_align.mmd(x, p)
        assert p.deleted == 2
    with pytest.raises(TypeError, match="x lies on a device of DLPack's type 8"):
        craft_align.mmd(Producer(x, device=(8, 0)), x)
    pinned = Producer(x, device=(3, 0))
    assert float(craft_align.mmd(pinned, x + 1)) == float(craft_align.mmd(x, x + 1))


def test_arguments_are_released():
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    labels, weights = np.zeros(5, np.int64), np.ones(5)
    before = [sys.getrefcount(a) for a in (x, y, labels, weights)]
    for _ in range(50):
        craft_align.mmd(x, y, x_weights=weights, gradients=("x", "y"))
        craft_align.anchor_cross_entropy(x, y, labels, weights=weights, gradients="x")
        with pytest.raises(ValueError):
            craft_align.mmd(x, y[:, :1].copy(), x_weights=weights)
        with pytest.raises(IndexError):
            craft_align.anchor_cross_entropy(x, y, labels + 9, weights=weights)
    assert [sys.getrefcount(a) for a in (x, y, labels, weights)] == before
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


@LIBRARIES
def test_no_memory_is_lost(library):
    x = library["asarray"](rng.normal(size=(1000, 128)))  # a megabyte
    y = library["asarray"](rng.normal(size=(2, 128)))
    u = library["asarray"](np.ones((1000, 2)))

    def step():
        craft_align.relative_pullback(x, y, u, gradients="x")
        with pytest.raises(ValueError):
            craft_align.relative_pullback(x, y, y)

    for _ in range(20):
        step()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024  # kilobytes; 300 results would be 300 MB


# ---- errors


def test_errors():
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    for call, error, text in (
        (lambda: craft_align.mmd(x, y[:, :2].copy()), ValueError, r"^mmd: x \(5, 3\) and y \(4, 2\): their columns must agree$"),
        (lambda: craft_align.mmd(x, y, estimator="fair"), ValueError, "estimator: expected biased, unbiased or linear, got fair"),
        (lambda: craft_align.mmd(x, y, estimator=1), TypeError, "estimator: expected a name, got 1"),
        (lambda: craft_align.mmd(x, y, kernel="square"), ValueError, "kernel: expected gaussian, .*, got square"),
        (lambda: craft_align.mmd(x, y, bandwidths=-1), ValueError, "sigma must be positive"),
        (lambda: craft_align.mmd(x, y, bandwidths=(1, 2), weights=(1,)), ValueError, "1 weights for 2 kernels"),
        (lambda: craft_align.mmd(x, y, kernel="energy", bandwidths=1), ValueError, "energy takes no bandwidth"),
        (lambda: craft_align.mmd(x, y, bandwidths="wide"), TypeError, "bandwidths: expected numbers, got 'wide'"),
        (lambda: craft_align.mmd(x, y, factor="big"), TypeError, "factor: expected a number, got 'big'"),
        (lambda: craft_align.mmd(x, y, column_gradient=1), TypeError, "column_gradient: expected True or False, got 1"),
        (lambda: craft_align.mmd(x, y, upstream="up"), TypeError, "upstream: expected a number or an array of one, got 'up'"),
        (lambda: craft_align.mmd(x, y, gradients=("x", "z")), ValueError, "gradients: expected x, y, weights, .* or y_weights, got z"),
        (lambda: craft_align.mmd(x, y, x_weights=[1, 2]), ValueError, r"x_weights \(2,\): expected 5 rows, one per row of x \(5, 3\)"),
        (lambda: craft_align.mmd(x, y, x_weights=[1, 2, -1, 0, 0]), ValueError, r"x_weights\[2\] must be finite and not negative"),
        (lambda: craft_align.mmd(x[:1], y, estimator="unbiased"), ValueError, "needs at least 2 rows"),
        (lambda: craft_align.mmd([[1.0]], y), TypeError, r"^mmd: x is a list, expected an array \(numpy.asarray\)$"),
        (lambda: craft_align.mmd(x, None), TypeError, "^mmd: y is None$"),
        (lambda: craft_align.mmd(x[None], y[None]), ValueError, r"x has 3 dimensions .*; y has 3 dimensions \(1, 4, 3\)"),
        (lambda: craft_align.mmd(x, y, x_weights=np.ones((5, 1))), ValueError, r"mmd: x_weights has 2 dimensions \(5, 1\), .*: reshape"),
        (lambda: craft_align.mmd(x, y, y_weights=np.arange(4)), TypeError, "mmd: y_weights holds int64, expected .* float32: convert"),
        (lambda: craft_align.info_nce(x, y), ValueError, "row i belongs to row i, but x is 5 x 3 and y is 4 x 3"),
        (lambda: craft_align.info_nce(x, x, log_scale=math.inf), ValueError, "log_scale must be finite"),
        (lambda: craft_align.info_nce(x, x, log_scale=np.ones(2)), ValueError, r"log_scale must be one number, got \(2,\)"),
        (lambda: craft_align.info_nce(x, x, direction="up"), ValueError, "direction: expected one_way or symmetric, got up"),
        (lambda: craft_align.info_nce(x, y, x_labels=[0] * 5), ValueError, "labels must be given for both sides"),
        (lambda: craft_align.info_nce(x, y, gradients="bias"), ValueError, "got bias"),
        (lambda: craft_align.anchor_cross_entropy(x, y, [0, 1, 2, 3, 4]), IndexError, r"labels\[4\] is 4, expected 0 to 3"),
        (lambda: craft_align.anchor_cross_entropy(x, y, [0, 1]), ValueError, r"targets \(2,\): expected 5 rows, one per row of x \(5, 3\)"),
        (lambda: craft_align.anchor_cross_entropy(x, y, np.zeros((5, 1))), ValueError, r"targets \(5, 1\): expected 4 columns"),
        (lambda: craft_align.anchor_cross_entropy(x, y, np.zeros((5, 1), int)), TypeError, "targets holds int64"),
        (
            lambda: craft_align.info_nce(x, y, x_labels=[0] * 5, y_labels=[0] * 5),
            ValueError,
            r"y_labels \(5,\): expected 4 rows, one per row of y \(4, 3\)",
        ),
        (lambda: craft_align.objective(x, y, [0]), ValueError, r"targets \(1,\): expected 5 rows, one per row of images \(5, 3\)"),
        (lambda: craft_align.anchor_cross_entropy(x, y, [0.5] * 5), TypeError, "targets holds float64 in 1 dimension: labels are int64 or int32"),
        (lambda: craft_align.anchor_cross_entropy(x, y, None), TypeError, "targets is None"),
        (lambda: craft_align.anchor_cross_entropy(x, y, x), ValueError, r"targets \(5, 3\): expected 4 columns"),
        (lambda: craft_align.relative(x, y, statistics="some"), ValueError, "statistics: expected none, centre or standardise"),
        (lambda: craft_align.relative_pullback(x, y, x), ValueError, r"dout \(5, 3\): expected 4 columns"),
        (lambda: craft_align.objective(x, y, [0] * 5, text=-1), ValueError, "weights must be finite and not negative"),
        (lambda: craft_align.kmeans(x, 2.0), TypeError, "k: expected an integer, got 2.0"),
        (lambda: craft_align.kmeans(x, 2, start=[0, "a"]), TypeError, "'str'"),
    ):
        with pytest.raises(error, match=text):
            call()
    # All that is wrong is said at once.
    with pytest.raises(TypeError, match="x holds int64.*; y is a list.*; estimator: expected .*, got fair; factor: expected a number"):
        craft_align.mmd(np.ones((3, 2), int), [[1.0]], estimator="fair", factor="big")


def test_calls_from_many_threads():
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    value, g = craft_align.mmd(x, y, gradients=("x", "y"))
    different = []

    def work():
        for _ in range(30):
            v, d = craft_align.mmd(x, y, gradients=("x", "y"))
            if float(v) != float(value) or (d["x"] != g["x"]).any() or (d["y"] != g["y"]).any():
                different.append(v)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not different


def run(*arguments, timeout=None, **environment):
    paths = os.pathsep.join([str(Path(craft_align.__file__).parents[1]), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(os.environ, PYTHONPATH=paths, **environment),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_interrupts_end_long_calls():
    x = rng.normal(size=(20000, 64)).astype(np.float32)
    seconds = []
    for call in (lambda: craft_align.mmd(x, x + 1, gradients=("x", "y")), lambda: craft_align.kmeans(x, 300, restarts=200)):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call()
            pytest.fail("the call ended before the interrupt")
        seconds.append(time.monotonic() - start)
    assert max(seconds) < 5  # half a second until the interrupt; the rest is what a busy machine may take
    assert math.isfinite(craft_align.mmd(x[:50], x[50:90]))  # and the next call is as ever


def test_forked_children_go_on():
    code = """
import multiprocessing, numpy, craft_align
x = numpy.random.default_rng(0).normal(size=(1500, 64))
def job(_):
    return float(craft_align.mmd(x, x + 1))
if __name__ == "__main__":
    here = job(0)
    assert multiprocessing.get_context("fork").Pool(2).map(job, range(4)) == [here] * 4
"""
    done = run("-c", code, OMP_NUM_THREADS="2", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_brings_no_library():
    code = "import sys, craft_align; print([m for m in ('numpy', 'torch', 'jax', 'cupy') if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_the_example_trains():
    done = run(str(Path(__file__).resolve().parents[2] / "examples/arrays/align.py"))
    assert done.returncode == 0, done.stdout + done.stderr
