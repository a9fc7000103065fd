"""The losses of craft as modules of PyTorch; the functions are those of craft_align.

    loss = craft_align.torch.MMDLoss(bandwidths=(0.5, 1.0, 2.0), bandwidth_rule="median")
    loss(source, target).backward()

Matrices hold one sample per row (n x d) and have one type: float64, float32, float16 or bfloat16. Values are float64 for
float64 and float32 else, gradients are computed so and then have the type of their input. They run on the CPU in torch's number
of threads and, where the package was built for it, on CUDA tensors in the current stream. Nothing is copied where the
numbers of a row lie side by side (`x.stride(1) == 1`); else the call makes x contiguous first.

Under autocast matrices of different types are cast to the widest of them. torch.compile, torch.export and torch.jit.script take all of
it without a graph break; torch.vmap takes batches; forward mode gives the tangents of losses and representations. Each loss is one sweep for the value and
all gradients that are needed; those by weights of samples take a second one over the pairs. There are no second derivatives: asking
for one raises NotImplementedError.

Errors: TypeError (types), ValueError (shapes, options, names), IndexError (a label out of range; of labels in CUDA memory the
value is NaN instead), RuntimeError (devices), all before anything is computed.

These are losses of a batch, not sums over its rows: two halves of a batch have another loss, and another gradient, than the whole.
"""

from ._modules import *  # noqa: F403
from ._verbs import *  # noqa: F403
