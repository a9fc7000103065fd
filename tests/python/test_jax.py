"""craft_align.jax: values and gradients against formulas in jax.numpy that JAX differentiates itself, under jit, grad
and vmap; element types, what is computed when, errors; and that the handlers for CUDA compile."""

import functools
import math
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import craft_align
import craft_align.jax as craft

jax.config.update("jax_enable_x64", True)
project = Path(__file__).resolve().parents[2]


def normal(seed, *shape, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64).astype(dtype)


def close(a, b, tolerance=1e-10):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        assert one.shape == other.shape and np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1, np.abs(other).max()))


# ---- the formulas


def squared_distances(a, b):
    return jnp.sum((a[:, None, :] - b[None, :, :]) ** 2, axis=-1)


def gaussians(*sigmas):
    return lambda D: sum(jnp.exp(-D / (2 * s * s)) for s in sigmas)


def mmd_of(x, y, k, unbiased=False, wx=None, wy=None):
    kx, ky, kxy = (k(squared_distances(a, b)) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    a = jnp.ones(n) / n if wx is None else wx / jnp.sum(wx)
    b = jnp.ones(m) / m if wy is None else wy / jnp.sum(wy)
    if unbiased:
        off = lambda K, a: jnp.sum(jnp.outer(a, a) * K * (1 - jnp.eye(len(a)))) / (1 - jnp.sum(a * a))
        return off(kx, a) + off(ky, b) - 2 * a @ kxy @ b
    return a @ kx @ a + b @ ky @ b - 2 * a @ kxy @ b


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def cosines(x, y, log_scale):
    return jnp.exp(log_scale) * unit(x) @ unit(y).T


def info_nce_of(x, y, log_scale, direction="symmetric", weights=None):
    z = cosines(x, y, log_scale)
    rows = -jnp.average(jnp.diag(jax.nn.log_softmax(z, axis=1)), weights=weights)
    columns = -jnp.average(jnp.diag(jax.nn.log_softmax(z, axis=0)), weights=weights)
    return rows if direction == "one_way" else (rows + columns) / 2


def sigmoid_of(x, y, log_scale, bias):
    z = cosines(x, y, log_scale) + bias
    return -jnp.sum(jax.nn.log_sigmoid(jnp.where(jnp.eye(len(x)) > 0, z, -z))) / len(x)


def cross_entropy_of(x, anchors, targets, log_scale, weights=None):
    shares = jax.nn.one_hot(targets, len(anchors)) if jnp.ndim(targets) == 1 else targets
    losses = jnp.sum(shares * jax.nn.log_softmax(cosines(x, anchors, log_scale), axis=1), axis=1)
    return -jnp.average(losses, weights=weights)


labels = jnp.array([0, 2, 1, 1, 0, 2])
shares = jax.nn.softmax(normal(99, 6, 3), axis=1)
positive = lambda seed, n: 0.5 + jnp.abs(normal(seed, n))

# name: our function, the formula, and what both are given and differentiated by.
CASES = {
    "mmd": (
        functools.partial(craft.mmd, bandwidths=(0.5, 2.0)),
        lambda x, y: mmd_of(x, y, gaussians(0.5, 2.0)),
        (normal(0, 6, 4), normal(1, 5, 4) + 0.5),
    ),
    "mmd unbiased, of a sum": (
        functools.partial(craft.mmd, kernel="inverse_multiquadric", bandwidths=(1, 2), weights=(0.5, 3), estimator="unbiased"),
        lambda x, y: mmd_of(x, y, lambda D: 0.5 / (1 + D) + 3 * 4 / (4 + D), unbiased=True),
        (normal(2, 6, 4), normal(3, 5, 4)),
    ),
    "mmd through the mean distance": (
        functools.partial(craft.mmd, bandwidth_rule="mean", bandwidth_gradient=True, factor=2, offset=1),
        lambda x, y: 1
        + 2
        * mmd_of(
            x,
            y,
            lambda D: jnp.exp(-D / (2 * jnp.mean(squared_distances(jnp.concatenate([x, y]), jnp.concatenate([x, y]))))),
        ),
        (normal(4, 6, 4), normal(5, 5, 4)),
    ),
    "mmd with weights": (
        lambda x, y: craft.mmd(x, y, x_weights=jnp.arange(1.0, 7), y_weights=[1, 0, 2, 1, 1]),
        lambda x, y: mmd_of(x, y, gaussians(1.0), wx=jnp.arange(1.0, 7), wy=jnp.array([1.0, 0, 2, 1, 1])),
        (normal(6, 6, 4), normal(7, 5, 4)),
    ),
    "mmd by its weights": (
        lambda x, y, v, w: craft.mmd(x, y, x_weights=v, y_weights=w),
        lambda x, y, v, w: mmd_of(x, y, gaussians(1.0), wx=v, wy=w),
        (normal(50, 6, 4), normal(51, 5, 4), positive(52, 6), positive(53, 5)),
    ),
    "mmd unbiased, by its weights": (
        lambda x, y, v, w: craft.mmd(x, y, x_weights=v, y_weights=w, estimator="unbiased", factor=3),
        lambda x, y, v, w: 3 * mmd_of(x, y, gaussians(1.0), True, v, w),
        (normal(54, 6, 4), normal(55, 5, 4), positive(56, 6), positive(57, 5)),
    ),
    "info_nce by its weights": (
        lambda x, y, t, w: craft.info_nce(x, y, log_scale=t, weights=w),
        lambda x, y, t, w: info_nce_of(x, y, t, weights=w),
        (normal(58, 6, 4), normal(59, 6, 4), jnp.float64(0.8), positive(60, 6)),
    ),
    "anchor_cross_entropy by its weights": (
        lambda x, a, t, w: craft.anchor_cross_entropy(x, a, labels, log_scale=t, weights=w),
        lambda x, a, t, w: cross_entropy_of(x, a, labels, t, w),
        (normal(61, 6, 4), normal(62, 3, 4), jnp.float64(1.1), positive(63, 6)),
    ),
    "anchor_cross_entropy by shares and weights": (
        lambda x, a, t, s, w: craft.anchor_cross_entropy(x, a, s, log_scale=t, weights=w),
        lambda x, a, t, s, w: cross_entropy_of(x, a, s, t, w),
        (normal(64, 6, 4), normal(65, 3, 4), jnp.float64(0.4), shares, positive(66, 6)),
    ),
    "info_nce": (
        lambda x, y, t: craft.info_nce(x, y, log_scale=t),
        info_nce_of,
        (normal(8, 6, 4), normal(9, 6, 4), jnp.float64(1.3)),
    ),
    "info_nce one way": (
        lambda x, y, t: craft.info_nce(x, y, log_scale=t, direction="one_way"),
        functools.partial(info_nce_of, direction="one_way"),
        (normal(10, 6, 4), normal(11, 6, 4), jnp.float64(0.3)),
    ),
    "sigmoid_contrastive": (
        lambda x, y, t, b: craft.sigmoid_contrastive(x, y, log_scale=t, bias=b),
        sigmoid_of,
        (normal(12, 6, 4), normal(13, 6, 4), jnp.float64(1.0), jnp.float64(-1.5)),
    ),
    "anchor_cross_entropy": (
        lambda x, a, t: craft.anchor_cross_entropy(x, a, labels, log_scale=t),
        lambda x, a, t: cross_entropy_of(x, a, labels, t),
        (normal(14, 6, 4), normal(15, 3, 4), jnp.float64(1.1)),
    ),
    "anchor_cross_entropy of shares": (
        lambda x, a, t: craft.anchor_cross_entropy(x, a, shares, log_scale=t),
        lambda x, a, t: cross_entropy_of(x, a, shares, t),
        (normal(16, 6, 4), normal(17, 3, 4), jnp.float64(0.4)),
    ),
    "relative": (
        lambda x, a, t: jnp.sum(jnp.sin(craft.relative(x, a, log_scale=t))),
        lambda x, a, t: jnp.sum(jnp.sin(cosines(x, a, t))),
        (normal(18, 6, 4), normal(19, 3, 4), jnp.float64(0.7)),
    ),
    "relative, centred Gaussian": (
        lambda x, a: jnp.sum(
            jnp.sin(craft.relative(x, a, similarity="gaussian", bandwidths=2, statistics="centre", normalise=False))
        ),
        lambda x, a: jnp.sum(jnp.sin(jnp.exp(-squared_distances(x, a) / 8))),
        (normal(20, 6, 4), normal(21, 3, 4)),
    ),
    "objective": (
        lambda f, t, u, a, g, s: craft.objective(
            f, t, labels, batch_texts=u, image_anchors=a, target_images=g, log_scale=s, bandwidths=(0.5, 2.0), text=0.5, mmd=3
        ).total,
        lambda f, t, u, a, g, s: 0.5 * cross_entropy_of(f, t, labels, s)
        + cross_entropy_of(u, a, labels, s)
        + info_nce_of(f, u, s, "one_way")
        + 3 * mmd_of(cosines(f, t, s), cosines(g, t, s), gaussians(0.5, 2.0)),
        (normal(22, 6, 4), normal(23, 3, 4), normal(24, 6, 4), normal(25, 3, 4), normal(26, 5, 4), jnp.float64(0.6)),
    ),
}
EACH = pytest.mark.parametrize("name", CASES)


@EACH
def test_values_and_gradients(name):
    ours, formula, arguments = CASES[name]
    every = tuple(range(len(arguments)))
    expected = jax.jit(jax.value_and_grad(formula, every))(*arguments)
    close(ours(*arguments), expected[0])
    close(jax.value_and_grad(ours, every)(*arguments), expected)
    close(jax.jit(jax.value_and_grad(ours, every))(*arguments), expected)
    close(jax.grad(jax.jit(ours), every)(*arguments), expected[1])
    check_grads(ours, arguments, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@EACH
def test_transformations(name):
    ours, formula, arguments = CASES[name]
    stacked = [jnp.stack([a, 1.25 * a, a - 0.25]) for a in arguments]
    expected = jax.jit(jax.vmap(jax.value_and_grad(formula)))(*stacked)
    close(jax.vmap(ours)(*stacked), expected[0])
    close(jax.jit(jax.vmap(jax.grad(ours)))(*stacked), expected[1])
    first = (0, *[None] * (len(arguments) - 1))
    close(jax.jit(jax.vmap(ours, first))(stacked[0], *arguments[1:]), jax.jit(jax.vmap(formula, first))(stacked[0], *arguments[1:]))
    # A cotangent that is not one, the chain rule on both sides, recomputation, a loop.
    chained = lambda f: lambda x: jnp.exp(-2 * f(jnp.tanh(x), *arguments[1:]))
    expected = jax.jit(jax.grad(chained(formula)))(arguments[0])
    close(jax.grad(chained(ours))(arguments[0]), expected)
    close(jax.jit(jax.grad(jax.checkpoint(chained(ours))))(arguments[0]), expected)

    def train(f):
        step = lambda x, _: (x - 0.1 * jax.grad(f)(x, *arguments[1:]), f(x, *arguments[1:]))
        return jax.lax.scan(step, arguments[0], length=4)

    close(jax.jit(train, static_argnums=0)(ours), jax.jit(train, static_argnums=0)(formula), 1e-9)


@EACH
def test_what_is_computed(name):
    """One call under differentiation, with the gradients that are asked for and no others."""
    ours, _, arguments = CASES[name]

    def calls(f):
        text = str(jax.make_jaxpr(f)(*arguments))
        return re.findall(r"\('outputs', '([a-z_,]*)'\)|outputs=([a-z_,]*)", text)

    outputs = lambda f: ["".join(found) for found in calls(f)]
    value = "out" if name.startswith("relative") else "values" if name == "objective" else "value"
    assert outputs(ours) == [value]
    by_first = outputs(jax.grad(ours))
    names = "x" if name != "objective" else "images"
    assert by_first == ([value, names] if name.startswith("relative") else [f"{value},{names}"])
    everything = outputs(jax.grad(ours, tuple(range(len(arguments)))))
    assert len(everything) == len(by_first)
    assert len(everything[-1].split(",")) == len(arguments) + (not name.startswith("relative"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@EACH
def test_element_types(name, dtype):
    ours, formula, arguments = CASES[name]
    narrow = [a.astype(dtype) if a.ndim else a for a in arguments]
    exact = [a.astype("float64") for a in narrow]
    value, g = jax.value_and_grad(ours, tuple(range(len(arguments))))(*narrow)
    expected, expected_g = jax.jit(jax.value_and_grad(formula, tuple(range(len(arguments)))))(*exact)
    assert value.dtype == "float32"
    close(value, expected, 1e-5)
    tolerance = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]  # gradients are rounded to the type
    for a, one, other in zip(narrow, g, expected_g):
        assert one.dtype == a.dtype and one.shape == a.shape
        close(one, other, tolerance if a.ndim else 2e-5)


def test_options():
    x, y = normal(30, 6, 4), normal(31, 6, 4)
    # Those of the verbs, and the same defaults: what craft_align's functions for arrays give, to the bit.
    for name, arguments, options in (
        ("mmd", (x, y), {}),
        ("mmd", (x, y), dict(columns="minmax_joint", column_eps=1e-3, estimator="linear", kernel="laplacian")),
        ("mmd", (x, y), dict(kernel="rational_quadratic", shape=1.5, bandwidth_rule="median_mid", bandwidth_sample="x")),
        ("info_nce", (x, y), {}),
        ("info_nce", (x, y), dict(x_labels=labels, y_labels=labels[::-1], label_smoothing=0.1, weights=[1, 2, 0, 1, 1, 1])),
        ("info_nce", (x, y), dict(max_scale=3.0, normalise=False)),
        ("sigmoid_contrastive", (x, y), {}),
        ("sigmoid_contrastive", (x, y[:4]), dict(x_labels=labels, y_labels=labels[:4])),
        ("anchor_cross_entropy", (x, y[:3], labels), {}),
        ("anchor_cross_entropy", (x, y[:3], labels), dict(ignore_label=2, reduction="sum", weights=jnp.arange(6.0))),
        ("relative", (x, y[:3]), {}),
        ("relative", (x, y[:3]), dict(statistics="standardise", similarity="energy", log_scale=1.0)),
    ):
        ours = getattr(craft, name)(*arguments, **options)
        other = getattr(craft_align, name)(*(np.asarray(a) for a in arguments), **options)
        assert (np.asarray(ours) == np.asarray(other)).all(), (name, options)
    values = craft.objective(x, y[:3], labels, target_images=y)
    other = craft_align.objective(np.asarray(x), np.asarray(y[:3]), np.asarray(labels), target_images=np.asarray(y))
    assert isinstance(values, craft_align.ObjectiveResult)
    assert [float(v) for v in values] == [float(v) for v in other]
    assert not jax.grad(lambda f: craft.objective(f, y[:3], labels).text)(x).any()  # only the total has a gradient


def test_scale_is_clamped():
    x, y = normal(32, 6, 4), normal(33, 6, 4)
    f = lambda t: craft.info_nce(x, y, log_scale=t, max_scale=3.0)
    close(f(5.0), info_nce_of(x, y, math.log(3.0)))
    assert jax.grad(f)(1.0) != 0
    # Of another type than the rows, and of one dimension.
    narrow = x.astype("float32")
    assert jax.grad(lambda t: craft.info_nce(narrow, narrow, log_scale=t))(jnp.float64(1.0)).dtype == "float64"
    assert jax.grad(lambda t: craft.info_nce(narrow, narrow, log_scale=t))(jnp.ones(1, "bfloat16")).shape == (1,)


CLAMPABLE = {
    "anchor_cross_entropy": lambda x, y, **o: craft.anchor_cross_entropy(x, y[:3], labels, **o),
    "info_nce": lambda x, y, **o: craft.info_nce(x, y, **o),
    "sigmoid_contrastive": lambda x, y, **o: craft.sigmoid_contrastive(x, y, **o),
    "relative": lambda x, y, **o: craft.relative(x, y[:3], **o).sum(),
    "objective": lambda x, y, **o: craft.objective(x, y[:3], labels, target_images=y, **o).total,
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CLAMPABLE)
def test_scale_at_its_maximum_has_the_gradient_that_leads_back(name, dtype):
    loss, x, y = CLAMPABLE[name], normal(32, 6, 4, dtype=dtype), normal(33, 6, 4, dtype=dtype)
    bound = math.nextafter(math.log(3.0), math.inf)  # exp of it is no less than 3
    # The cotangent counts, in its sign too; the second sign is known only when the compiled function runs.
    with_limit = jax.jit(jax.grad(lambda t, sign: sign * loss(x, y, log_scale=t, max_scale=3.0)))
    without = jax.jit(jax.grad(lambda t, sign: sign * loss(x, y, log_scale=t)))
    passed = set()
    for sign in (1.0, -1.0, 2.5, -2.5):
        expected = max(0.0, float(without(math.log(3.0), sign)))
        passed.add(expected > 0)
        for t in (bound if dtype == "float64" else bound + 1e-6, bound + 0.1, 7.0):
            got = float(with_limit(t, sign))
            close(got, expected, 1e-10 if dtype == "float64" else 1e-4)
            assert (got != 0) == (expected != 0)
        assert with_limit(1.0, sign) == without(1.0, sign) != 0
    assert passed == {True, False}
    several = jax.vmap(with_limit)(jnp.full(2, 2.0), jnp.array([1.0, -1.0]))
    close(list(several), [with_limit(2.0, 1.0), with_limit(2.0, -1.0)])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["info_nce", "anchor_cross_entropy"])
def test_scale_that_starts_at_its_maximum_learns(name, dtype):
    """As CLIP's does; of random rows, for which a smaller one is better. Clamping the parameter does the same."""
    loss, x, y = CLAMPABLE[name], normal(32, 6, 4, dtype=dtype), normal(33, 6, 4, dtype=dtype)
    bound = jnp.asarray(math.log(100.0), dtype)

    def trained(**options):
        gradient = jax.jit(jax.grad(lambda t: loss(x, y, log_scale=t, **options)))
        t, mean, square = bound, jnp.zeros((), dtype), jnp.zeros((), dtype)
        for step in range(1, 51):  # Adam
            g = gradient(t)
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            t = t - 0.02 * (mean / (1 - 0.9**step)) / (jnp.sqrt(square / (1 - 0.999**step)) + 1e-8)
            if not options:
                t = jnp.minimum(t, bound)
        assert t.dtype == dtype
        return t

    close(trained(max_scale=100.0), trained(), 1e-10 if dtype == "float64" else 1e-4)
    assert trained(max_scale=100.0) < bound - 0.5


def test_rows_of_one_number():
    x, y = normal(34, 6), normal(35, 5)
    value, (dx, dy) = jax.value_and_grad(lambda x, y: craft.mmd(x[:, None], y[:, None]), (0, 1))(x, y)
    expected = jax.jit(jax.value_and_grad(lambda x, y: mmd_of(x[:, None], y[:, None], gaussians(1.0)), (0, 1)))(x, y)
    close((value, (dx, dy)), expected)


def test_threads():
    """More work than one tile, from several threads at once: the same bits as elsewhere."""
    x, y = normal(36, 700, 16), normal(37, 600, 16)
    expected = craft_align.mmd(np.asarray(x), np.asarray(y), gradients="x")
    f = jax.jit(jax.value_and_grad(craft.mmd))
    different = []

    def work():
        for _ in range(5):
            value, dx = f(x, y)
            if float(value) != float(expected[0]) or (np.asarray(dx) != expected[1]["x"]).any():
                different.append(value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not different
    stacked = jnp.stack([x[:300], x[300:600]])
    close(list(jax.jit(jax.vmap(craft.mmd, (0, None)))(stacked, y)), [craft.mmd(stacked[0], y), craft.mmd(stacked[1], y)])


# ---- errors


def test_errors_when_traced():
    x, y = normal(40, 6, 4), normal(41, 5, 4)
    for call, error, text in (
        (lambda x, y: craft.mmd(x, y[:, :3]), ValueError, r"mmd: x \(6, 4\) and y \(5, 3\): their columns must agree"),
        (lambda x, y: craft.mmd(x, y.astype("float32")), TypeError, "mmd: expected y of type float64, got float32"),
        (lambda x, y: craft.mmd(labels, labels), TypeError, "x holds int.., expected float64, float32, float16 or bfloat16: convert it .*; y holds int"),
        (
            lambda x, y: craft.mmd(x[None], y[:, None]),
            ValueError,
            r"x has 3 dimensions \(1, 6, 4\), expected a matrix with one sample per row: reshape it to \(1, -1\); "
            r"y has 3 dimensions \(5, 1, 4\), expected a matrix with one sample per row: reshape it to \(5, -1\)",
        ),
        (lambda x, y: craft.mmd(x[0, 0], y), ValueError, r"mmd: x has 0 dimensions \(\), expected a matrix"),
        (lambda x, y: craft.mmd(x[:0], y), ValueError, "x is empty"),
        (lambda x, y: craft.mmd(x, y, kernel="square"), ValueError, "kernel: expected gaussian, .* got square"),
        (lambda x, y: craft.mmd(x, y, bandwidths=(1, 0)), ValueError, "sigma must be positive"),
        (lambda x, y: craft.mmd(x, y, estimator="fair"), ValueError, "estimator: expected biased, unbiased or linear, got fair"),
        (lambda x, y: craft.mmd(x[:1], y, estimator="unbiased"), ValueError, "needs at least 2 rows"),
        (lambda x, y: craft.mmd(x, y, columns=3), TypeError, "columns: expected a name, got 3"),
        (lambda x, y: craft.mmd(x, y, x_weights=jnp.ones(5)), ValueError, r"x_weights \(5,\): expected 6 rows, one per row of x \(6, 4\)"),
        (lambda x, y: craft.mmd(x, y, x_weights=jnp.ones((6, 1))), ValueError, r"x_weights has 2 dimensions \(6, 1\), expected one, .*: reshape it to \(-1\)"),
        (lambda x, y: craft.info_nce(x, y), ValueError, r"row i belongs to row i, but x is 6 x 4 and y is 5 x 4"),
        (lambda x, y: craft.info_nce(x, y, x_labels=labels), ValueError, "labels must be given for both sides"),
        (lambda x, y: craft.info_nce(x, x, log_scale=jnp.ones(2)), ValueError, r"log_scale must be one number, got \(2,\)"),
        (lambda x, y: craft.info_nce(x, x, direction="up"), ValueError, "direction: expected one_way or symmetric, got up"),
        (lambda x, y: craft.anchor_cross_entropy(x, y, labels[:3]), ValueError, r"targets \(3,\): expected 6 rows, one per row of x \(6, 4\)"),
        (
            lambda x, y: craft.anchor_cross_entropy(x, y, jnp.ones(6)),
            TypeError,
            "targets holds float64 in 1 dimension: labels are int64 or int32 in one",
        ),
        (lambda x, y: craft.info_nce(x, x, x_labels=x[:, 0], y_labels=labels), TypeError, "x_labels holds float64, expected labels of int64 or int32"),
        (lambda x, y: craft.anchor_cross_entropy(x, y, x), ValueError, r"targets \(6, 4\): expected 5 columns"),
        (lambda x, y: craft.anchor_cross_entropy(x, y, labels, reduction="none"), ValueError, "reduction: expected mean or sum, got none"),
        (lambda x, y: craft.relative(x, y, statistics="all"), ValueError, "statistics: expected none, centre or standardise, got all"),
        (lambda x, y: craft.relative(x, y[:1], statistics="standardise"), ValueError, "at least 2 anchors, got 1"),
        (lambda x, y: craft.objective(x, y, labels, batch_texts=y), ValueError, r"batch_texts \(5, 4\): expected 6 rows"),
    ):
        for transformed in (call, jax.jit(call), jax.grad(call)):
            with pytest.raises(error, match=text):
                transformed(x, y)


def test_labels_keep_their_value():
    x = normal(47, 4, 3)
    for ids in (np.array([1, 2**32 + 1, 5, 2**33 + 5], np.uint64), np.array([1, 2**32 + 1, 5, 2**33 + 5])):
        close(craft.info_nce(x, x, x_labels=ids, y_labels=ids), craft.info_nce(x, x))  # no two are equal
        with jax.enable_x64(False):
            with pytest.raises(ValueError, match="info_nce: x_labels holds labels beyond u?int32, .* number the classes from 0"):
                craft.info_nce(jnp.float32(x), jnp.float32(x), x_labels=ids, y_labels=ids)
            craft.info_nce(jnp.float32(x), jnp.float32(x), x_labels=ids % 3, y_labels=ids % 3)


FAILED_CALL = (jax.errors.JaxRuntimeError, ValueError)  # which one is JAX's choice


def test_errors_of_the_values():
    x, y = normal(42, 6, 4), normal(43, 3, 4)
    wrong = labels.at[4].set(3)
    for f in (craft.anchor_cross_entropy, jax.jit(craft.anchor_cross_entropy), jax.value_and_grad(craft.anchor_cross_entropy)):
        with pytest.raises(FAILED_CALL, match=r"anchor_cross_entropy: labels\[4\] is 3, expected 0 to 2"):
            jax.block_until_ready(f(x, y, wrong))
    with pytest.raises(FAILED_CALL, match="x_weights must not all be zero"):
        jax.block_until_ready(craft.mmd(x, y, x_weights=jnp.zeros(6)))
    with pytest.raises(FAILED_CALL, match="log_scale must be finite"):
        jax.block_until_ready(craft.info_nce(x, x, log_scale=jnp.inf))
    close(craft.mmd(x, y), mmd_of(x, y, gaussians(1.0)))  # and the next call is well


def test_names_that_a_handler_does_not_know():
    x = normal(44, 3, 2)
    value = jax.ShapeDtypeStruct((), x.dtype)

    def call(results=(value,), **attributes):
        attributes = dict(verb="mmd", inputs="x,y", outputs="value") | attributes
        jax.block_until_ready(jax.ffi.ffi_call("craft_align", list(results), vmap_method="sequential")(x, x, **attributes))

    call()
    for options, text in (
        (dict(verb="nmd"), "expected mmd, .*, got nmd"),
        (dict(sigma=1.0), "there are 4 attributes, of which only these are known: verb, inputs, outputs"),
        (dict(inputs="x,z"), "mmd: argument: expected x, y, .*, got z"),
        (dict(inputs="x"), "inputs names 1 and outputs 1 buffers, but the call has 2 and 1"),
        (dict(outputs="x"), "value"),
        (dict(outputs="value,z", results=(value, value)), "gradients: expected x, y, .*, got z"),
        (dict(outputs="value,x", results=(value, value)), r"gradient of x: expected a place of \(3, 2\), got 1 x 1"),
        (dict(results=(jax.ShapeDtypeStruct((), "float32"),)), "of type float64, got float32"),
        (dict(estimator=3), "attribute estimator must be a string"),
        (dict(factor=np.int64(3)), "attribute factor must be a float64"),
    ):
        with pytest.raises(FAILED_CALL, match=text):
            call(**options)


def test_what_has_no_derivative():
    x, y = normal(45, 6, 4), normal(46, 6, 4)
    by_label = jax.grad(lambda t: craft.anchor_cross_entropy(x, y[:3], t), allow_int=True)
    assert by_label(labels).dtype == jax.dtypes.float0  # JAX's word for it
    with pytest.raises(FAILED_CALL, match="linear-time estimator takes no sample weights"):
        jax.block_until_ready(jax.grad(lambda w: craft.mmd(x, y, estimator="linear", x_weights=w))(jnp.ones(6)))
    for f in (lambda x: craft.mmd(x, y), lambda x: jnp.sum(craft.relative(x, y) ** 2)):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(f, (x,), (x,))
        with pytest.raises(ValueError, match="cannot be differentiated"):
            jax.hessian(f)(x)
        with pytest.raises(ValueError, match="cannot be differentiated"):
            jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))(x)


# ---- as it comes


def run(*arguments, **environment):
    paths = os.pathsep.join([str(Path(craft_align.__file__).parents[1]), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments], env=dict(os.environ, PYTHONPATH=paths, **environment), capture_output=True, text=True
    )


def test_without_x64_and_on_several_devices():
    """JAX's own defaults: float32 everywhere, options still in double; and a batch that is spread over devices."""
    done = run(
        "-c",
        """
import jax, jax.numpy as jnp, numpy as np
import craft_align, craft_align.jax as craft
from jax.sharding import NamedSharding, PartitionSpec
x, y = (jax.random.normal(jax.random.key(k), (8, 4)) for k in (0, 1))
options = dict(bandwidths=(0.1, 1 / 3), weights=(1, 1e-3), factor=0.1)
value, dx = jax.value_and_grad(lambda x: craft.mmd(x, y, **options))(x)
expected, g = craft_align.mmd(np.asarray(x), np.asarray(y), **options, gradients="x")
assert x.dtype == value.dtype == dx.dtype == "float32"
assert float(value) == float(expected) and (np.asarray(dx) == g["x"]).all()
assert jax.grad(lambda t: craft.info_nce(x, y, log_scale=t))(1.0).dtype == "float32"
assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("batch",))
spread = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch")))
f = jax.jit(jax.value_and_grad(craft.info_nce))
whole, by_rows = f(x, y), f(spread(x), spread(y))
assert float(whole[0]) == float(by_rows[0]) and (np.asarray(whole[1]) == np.asarray(by_rows[1])).all()
print("well")
""",
        JAX_ENABLE_X64="0",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert done.stdout.strip() == "well", done.stderr


def test_the_example_trains():
    done = run(str(project / "examples/jax/train.py"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_handlers_for_cuda_compile():
    """With the stand-ins for the toolkit's headers that the tests of the GPU engine have."""
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX").split()[0]
    eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], capture_output=True, text=True).stdout.strip()
    folders = [project / "tests/emulated/include", project / "tests/emulated", project / "cuda", project / "include"]
    done = subprocess.run(
        [compiler, "-std=c++17", "-fsyntax-only", "-fpermissive", *(f"-I{folder}" for folder in folders)]
        + ["-isystem" + (eigen[2:] or "/usr/include/eigen3"), "-isystem" + jax.ffi.include_dir(), str(project / "python/jax/jax.cpp")]
        + ["-Wno-unknown-pragmas"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
