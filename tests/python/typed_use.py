"""Every kind of call, for type checkers: test_types.py gives it to mypy and pyright. It is not run."""

from typing import Any, Dict, Tuple, assert_type

import jax
import numpy as np
import torch

import craft_align
import craft_align.jax
import craft_align.torch

Rows = np.ndarray[Tuple[int, int], np.dtype[np.float32]]


def arrays(x: Rows, labels: "np.ndarray[Any, np.dtype[np.int64]]") -> None:
    assert_type(craft_align.mmd(x, x, bandwidths=(0.5, 1.0)), Rows)
    assert_type(craft_align.mmd(x, x, gradients=("x", "y"), upstream=2.0), Tuple[Rows, Dict[str, Rows]])
    assert_type(craft_align.info_nce(x, x, x_labels=labels, y_labels=[0, 1], gradients="x"), Tuple[Rows, Dict[str, Rows]])
    assert_type(craft_align.relative(x, x), Rows)
    assert_type(craft_align.relative_pullback(x, x, x), Dict[str, Rows])
    assert_type(craft_align.objective(x, x, labels), craft_align.ObjectiveResult)
    assert_type(craft_align.kmeans(x, 3, start=[0, 1, 2]), craft_align.KmeansResult)
    assert_type(craft_align.two_sample_test(x, x, seed=1), craft_align.TwoSampleTestResult)
    assert_type(craft_align.class_means(x, labels, 2), Rows)
    craft_align.random_anchors(10, 3)
    assert_type(craft_align.level(), str)
    craft_align.mmd(x, x, kernel="rbf")  # type: ignore[call-overload]  # pyright: ignore
    craft_align.mmd(x, x, bandwidth=1.0)  # type: ignore[call-overload]  # pyright: ignore


def tensors(x: torch.Tensor, labels: torch.Tensor) -> None:
    assert_type(craft_align.info_nce(x, x, log_scale=x), torch.Tensor)
    assert_type(craft_align.torch.anchor_cross_entropy(x, x, labels), torch.Tensor)
    loss = craft_align.MMDLoss(bandwidths=(0.5, 1.0), learn_bandwidths=True)
    assert_type(loss(x, x), torch.Tensor)
    assert_type(craft_align.torch.InfoNCELoss()(x, x, labels, labels), torch.Tensor)
    assert_type(craft_align.CraftObjective()(x, x, labels).total, torch.Tensor)
    craft_align.MMDLoss("gauss")  # type: ignore[arg-type]  # pyright: ignore


def arrays_of_jax(x: jax.Array) -> None:
    assert_type(craft_align.jax.mmd(x, x), jax.Array)
    assert_type(jax.grad(lambda y: craft_align.mmd(x, y))(x), Any)
