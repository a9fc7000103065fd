"""MMD^2 with both gradients as one fused Triton kernel: what somebody writes who finds torch's intermediates too large.

A program keeps a block of rows of the stacked sample and goes through all others: products, one exponential (every
gamma is twice the one before it), and the gradient's product, nothing of it ever in memory. Every pair is computed
twice, once for each of its rows, which needs no atomics; whole rows are kept, so that d is limited by registers
(d <= 128).
"""

import torch
import triton
import triton.language as tl


@triton.jit
def mmd_kernel(rows, squares, gradient, values, n, m, gamma, d: tl.constexpr, block: tl.constexpr, count: tl.constexpr,
               precision: tl.constexpr):
    mine = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, d)
    x = tl.load(rows + mine[:, None] * d + column[None, :], mask=mine[:, None] < n + m, other=0.0)
    x_squares = tl.load(squares + mine, mask=mine < n + m, other=0.0)
    pulled = tl.zeros((block, d), tl.float32)
    slopes = tl.zeros((block,), tl.float32)
    value = tl.zeros((block,), tl.float32)
    for start in range(0, n + m, block):
        other = start + tl.arange(0, block)
        y = tl.load(rows + other[:, None] * d + column[None, :], mask=other[:, None] < n + m, other=0.0)
        y_squares = tl.load(squares + other, mask=other < n + m, other=0.0)
        share = tl.where(other < n, 1.0 / n, tl.where(other < n + m, -1.0 / m, 0.0))
        dots = tl.dot(x, tl.trans(y), input_precision=precision)
        distance = tl.maximum(x_squares[:, None] + y_squares[None, :] - 2 * dots, 0.0)
        kernel = tl.exp(-gamma * distance)
        total = kernel
        slope = kernel
        factor = 1.0
        for _ in tl.static_range(count - 1):
            kernel = kernel * kernel
            factor = factor * 2
            total += kernel
            slope += factor * kernel
        value += tl.sum(total * share[None, :], 1)
        weights = gamma * slope * share[None, :]
        slopes += tl.sum(weights, 1)
        pulled += tl.dot(weights, y, input_precision=precision)
    my_share = tl.where(mine < n, 1.0 / n, -1.0 / m)
    gradient_rows = -4 * my_share[:, None] * (x * slopes[:, None] - pulled)
    tl.store(gradient + mine[:, None] * d + column[None, :], gradient_rows, mask=mine[:, None] < n + m)
    tl.store(values + mine, my_share * value, mask=mine < n + m)


def mmd(x, y, gammas, precision):
    """Value and gradients; `gammas` doubles from each to the next; `precision`: ieee or tf32."""
    rows = torch.cat([x, y])
    rows -= rows.mean(0)  # a common shift changes no distance, but it keeps digits
    gradient, values = torch.empty_like(rows), torch.empty_like(rows[:, 0])
    block = 64
    mmd_kernel[(triton.cdiv(len(rows), block),)](rows, rows.square().sum(1), gradient, values, len(x), len(y),
                                                 gammas[0], x.shape[1], block, len(gammas), precision)
    return {"value": values.sum(), "d_x": gradient[:len(x)], "d_y": gradient[len(x):]}
