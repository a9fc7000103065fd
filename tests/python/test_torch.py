"""craft_align.torch: against the same losses written in plain PyTorch, and in what PyTorch expects of operators."""

import copy
import importlib.util
import math
import pickle
from pathlib import Path

import craft_align
import pytest
import torch
import torch.nn.functional as F
from craft_align import torch as craft
from torch.library import opcheck

ops = torch.ops.craft
double = torch.float64


def random(*shape, seed, dtype=double, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=double).to(dtype).requires_grad_(grad)


# Those that torch has here and the package is built for.
devices = ["cpu"]
if torch.cuda.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key("craft::mmd_gradients", "CUDA"):
    devices.append("cuda")


def inputs(dtype=double, grad=False, device="cpu"):
    """x, y: pairs; z: another sample; a, b: anchors; s: log_scale; w, v: weights of x and z; t: soft targets."""
    shapes = {"x": (9, 5), "y": (9, 5), "z": (7, 5), "a": (4, 5), "b": (4, 5)}
    made = {name: random(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}
    made["s"] = torch.tensor(math.log(3.0), dtype=dtype)
    made["w"], made["v"] = (random(n, seed=n).abs().add(0.2).to(dtype) for n in (9, 7))
    made["t"] = torch.softmax(random(9, 4, seed=21), 1).to(dtype)
    return {name: t.to(device).requires_grad_(grad) for name, t in made.items()}


def like(i, constant):
    """A constant where the inputs are."""
    return constant.to(i["x"].device)


labels = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2, 1])
others = torch.tensor([0, 3, 1, 2, 2, 0, 3, 3, 0])
weights = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.25, 1.0, 3.0, 1.0], dtype=double)
soft = torch.softmax(random(9, 4, seed=20), 1)


# ----------------------------------------------------------------------------------------------------------------------------
# The same in plain PyTorch


def plain_gaussians(x, y, sigmas, betas):
    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return sum(b * torch.exp(-d / (2 * s * s)) for s, b in zip(sigmas, betas))


def plain_mmd(x, y, sigmas=(1.0,), betas=None, unbiased=False, wx=None, wy=None):
    betas = [1.0] * len(sigmas) if betas is None else betas
    k = lambda p, q: plain_gaussians(p, q, sigmas, betas)  # noqa: E731
    a, b = (torch.ones_like(p[:, 0]) / len(p) if w is None else w / w.sum() for p, w in ((x, wx), (y, wy)))

    def within(p, a):
        shares = torch.outer(a, a)
        shares = shares * (1 - torch.eye(len(a)).to(a)) if unbiased else shares
        return (shares * k(p, p)).sum() / shares.sum()

    return within(x, a) + within(y, b) - 2 * a @ k(x, y) @ b


def plain_logits(x, y, s):
    return s.exp() * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T


class Clamped(torch.autograd.Function):
    """s, at most `most`, with the gradient that clamping s after each step leaves: none that leads further out."""

    @staticmethod
    def forward(ctx, s, most):
        ctx.held = s >= most
        return s.clamp(max=most)

    @staticmethod
    def backward(ctx, g):
        return torch.where(ctx.held & (g < 0), 0, g), None


def plain_info_nce(x, y, s, both=True, w=None):
    z, target = plain_logits(x, y, s), torch.arange(len(x), device=x.device)
    ways = [F.cross_entropy(q, target, reduction="none") for q in ((z, z.T) if both else (z,))]
    w = torch.ones_like(ways[0]) if w is None else w
    return sum(way @ w for way in ways) / len(ways) / w.sum()


def plain_cross_entropy(i, target, reduction="mean", **options):
    """With weights; in the mean, over the sum of those that take part."""
    losses = F.cross_entropy(plain_logits(i["x"], i["a"], i["s"]), target, reduction="none", **options)
    part = torch.ones_like(i["w"]) if target.dim() == 2 else (target != options.get("ignore_index", -100)).to(i["w"])
    return losses @ i["w"] / ((part * i["w"]).sum() if reduction == "mean" else 1)


def plain_sigmoid(x, y, s, bias):
    sign = 2 * torch.eye(len(x), dtype=x.dtype, device=x.device) - 1
    return -F.logsigmoid(sign * (plain_logits(x, y, s) + bias)).sum() / len(x)


def plain_kid(x, z):
    k = lambda a, b: (a @ b.T / x.shape[1] + 1) ** 3  # noqa: E731
    within = lambda q: (q.sum() - q.diagonal().sum()) / (len(q) * (len(q) - 1))  # noqa: E731
    return within(k(x, x)) + within(k(z, z)) - 2 * k(x, z).mean()


def plain_objective(x, a, y, b, z, s):
    target = labels.to(x.device)
    r = lambda q: plain_logits(q, a, s)  # noqa: E731
    return (
        F.cross_entropy(plain_logits(x, a, s), target)
        + F.cross_entropy(plain_logits(y, b, s), target)
        + plain_info_nce(x, y, s, both=False)
        + plain_mmd(r(x), r(z))
    )


sigmas, betas = [0.5, 1.0, 2.2], [1.0, 0.5, -0.25]
pairs = {
    "mmd": (
        lambda i: craft.mmd(i["x"], i["z"], bandwidths=sigmas, weights=betas),
        lambda i: plain_mmd(i["x"], i["z"], sigmas, betas),
        "xz",
    ),
    "mmd, unbiased": (
        lambda i: craft.mmd(i["x"], i["z"], estimator="unbiased", factor=3.0, offset=1.0),
        lambda i: 3 * plain_mmd(i["x"], i["z"], unbiased=True) + 1,
        "xz",
    ),
    "mmd, weighted": (
        lambda i: craft.mmd(i["x"], i["z"], bandwidths=sigmas, x_weights=i["w"], y_weights=i["v"], factor=2.0),
        lambda i: 2 * plain_mmd(i["x"], i["z"], sigmas, wx=i["w"], wy=i["v"]),
        "xzwv",
    ),
    "mmd, unbiased, weighted": (
        lambda i: craft.mmd(i["x"], i["z"], estimator="unbiased", x_weights=i["w"], y_weights=i["v"]),
        lambda i: plain_mmd(i["x"], i["z"], unbiased=True, wx=i["w"], wy=i["v"]),
        "xzwv",
    ),
    "mmd_preset": (
        lambda i: craft.mmd_preset(i["x"], i["z"], "cmmd"),
        lambda i: 1000 * plain_mmd(i["x"], i["z"], [10.0]),
        "xz",
    ),
    "mmd_preset, kid": (lambda i: craft.mmd_preset(i["x"], i["z"], "kid"), lambda i: plain_kid(i["x"], i["z"]), "xz"),
    "mmd, polynomial": (
        lambda i: craft.mmd(i["x"], i["z"], "polynomial", i["x"].shape[1] ** 0.5, estimator="unbiased"),
        lambda i: plain_kid(i["x"], i["z"]),
        "xz",
    ),
    "uniformity": (
        lambda i: craft.uniformity(i["x"]),
        lambda i: torch.pdist(F.normalize(i["x"])).pow(2).mul(-2).exp().mean().log(),
        "x",
    ),
    "anchor_cross_entropy": (
        lambda i: craft.anchor_cross_entropy(i["x"], i["a"], like(i, labels), log_scale=i["s"], label_smoothing=0.1),
        lambda i: F.cross_entropy(plain_logits(i["x"], i["a"], i["s"]), like(i, labels), label_smoothing=0.1),
        "xas",
    ),
    "anchor_cross_entropy, ignoring": (
        lambda i: craft.anchor_cross_entropy(i["x"], i["a"], like(i, labels), log_scale=i["s"], ignore_label=1, reduction="sum"),
        lambda i: F.cross_entropy(plain_logits(i["x"], i["a"], i["s"]), like(i, labels), ignore_index=1, reduction="sum"),
        "xas",
    ),
    "anchor_cross_entropy, soft": (
        lambda i: craft.anchor_cross_entropy(i["x"], i["a"], like(i, soft), log_scale=i["s"]),
        lambda i: F.cross_entropy(plain_logits(i["x"], i["a"], i["s"]), soft.to(i["x"])),
        "xas",
    ),
    "anchor_cross_entropy, weighted": (
        lambda i: craft.anchor_cross_entropy(
            i["x"], i["a"], like(i, labels), log_scale=i["s"], ignore_label=1, weights=i["w"], label_smoothing=0.1
        ),
        lambda i: plain_cross_entropy(i, like(i, labels), ignore_index=1, label_smoothing=0.1),
        "xasw",
    ),
    "anchor_cross_entropy, soft, weighted": (
        lambda i: craft.anchor_cross_entropy(i["x"], i["a"], i["t"], log_scale=i["s"], weights=i["w"], label_smoothing=0.1),
        lambda i: plain_cross_entropy(i, i["t"], label_smoothing=0.1),
        "xaswt",
    ),
    "anchor_cross_entropy, soft, weighted sum": (
        lambda i: craft.anchor_cross_entropy(i["x"], i["a"], i["t"], log_scale=i["s"], weights=i["w"], reduction="sum"),
        lambda i: plain_cross_entropy(i, i["t"], reduction="sum"),
        "xaswt",
    ),
    "info_nce, weighted": (
        lambda i: craft.info_nce(i["x"], i["y"], log_scale=i["s"], weights=i["w"]),
        lambda i: plain_info_nce(i["x"], i["y"], i["s"], w=i["w"]),
        "xysw",
    ),
    "info_nce, weighted, one way": (
        lambda i: craft.info_nce(i["x"], i["y"], log_scale=i["s"], weights=i["w"], direction="one_way"),
        lambda i: plain_info_nce(i["x"], i["y"], i["s"], both=False, w=i["w"]),
        "xysw",
    ),
    "info_nce": (
        lambda i: craft.info_nce(i["x"], i["y"], log_scale=i["s"]),
        lambda i: plain_info_nce(i["x"], i["y"], i["s"]),
        "xys",
    ),
    "info_nce, clamped": (
        lambda i: craft.info_nce(i["x"], i["y"], log_scale=i["s"], max_scale=2.0, direction="one_way"),
        lambda i: plain_info_nce(i["x"], i["y"], Clamped.apply(i["s"], math.log(2.0)), both=False),
        "xys",
    ),
    "sigmoid_contrastive": (
        lambda i: craft.sigmoid_contrastive(i["x"], i["y"], log_scale=i["s"], bias=-2 * i["s"]),
        lambda i: plain_sigmoid(i["x"], i["y"], i["s"], -2 * i["s"]),
        "xys",
    ),
    "relative": (
        lambda i: (craft.relative(i["x"], i["a"], log_scale=i["s"]) ** 2).sum(),
        lambda i: (plain_logits(i["x"], i["a"], i["s"]) ** 2).sum(),
        "xas",
    ),
    "relative, of distances": (
        lambda i: craft.relative(i["x"], i["a"], "gaussian", [2.0], normalise=False).sum(),
        lambda i: plain_gaussians(i["x"], i["a"], [2.0], [1.0]).sum(),
        "xa",
    ),
    "objective": (
        lambda i: craft.objective(
            i["x"], i["a"], like(i, labels), batch_texts=i["y"], image_anchors=i["b"], target_images=i["z"], log_scale=i["s"]
        ).total,
        lambda i: plain_objective(i["x"], i["a"], i["y"], i["b"], i["z"], i["s"]),
        "xaybzs",
    ),
}
each = pytest.mark.parametrize("name", pairs)


@each
@pytest.mark.parametrize("dtype", [double, torch.float32])
@pytest.mark.parametrize("device", devices)
def test_value_and_gradients_are_those_of_plain_torch(name, dtype, device):
    ours, plain, depends = pairs[name]
    i, j = inputs(dtype, grad=True, device=device), inputs(dtype, grad=True, device=device)
    loss, expected = ours(i), plain(j)
    tolerance = dict(rtol=1e-9, atol=1e-11) if dtype == double else dict(rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(loss, expected, **tolerance)
    # dL^2: another gradient than 1 comes from above.
    (loss**2).backward()
    (expected**2).backward()
    for key in i:
        if key in depends:
            torch.testing.assert_close(i[key].grad, j[key].grad, **tolerance, msg=lambda m: f"{key}: {m}")
        else:
            assert i[key].grad is None


@each
def test_gradcheck(name):
    ours, _, depends = pairs[name]
    i = inputs(grad=True)
    if name == "info_nce, clamped":
        i["s"] = torch.tensor(0.4, dtype=double, requires_grad=True)  # away from the kink and below it

    def loss(*changed):
        return ours({**i, **dict(zip(depends, changed))})

    assert torch.autograd.gradcheck(loss, [i[key] for key in depends])


# A loss with max_scale, and the same without, of inputs and a log_scale.
clampable = {
    "anchor_cross_entropy": lambda i, s, **o: craft.anchor_cross_entropy(i["x"], i["a"], labels, log_scale=s, **o),
    "info_nce": lambda i, s, **o: craft.info_nce(i["x"], i["y"], log_scale=s, **o),
    "sigmoid_contrastive": lambda i, s, **o: craft.sigmoid_contrastive(i["x"], i["y"], log_scale=s, **o),
    "relative": lambda i, s, **o: craft.relative(i["x"], i["a"], log_scale=s, **o).sum(),
    "objective": lambda i, s, **o: craft.objective(i["x"], i["a"], labels, target_images=i["z"], log_scale=s, **o).total,
}


@pytest.mark.parametrize("dtype", [double, torch.float32])
@pytest.mark.parametrize("name", clampable)
def test_scale_at_its_maximum_has_the_gradient_that_leads_back(name, dtype):
    loss, i, most = clampable[name], inputs(dtype), 3.0
    tolerance = dict(rtol=1e-11, atol=1e-13) if dtype == double else dict(rtol=1e-4, atol=1e-6)
    bound = math.nextafter(math.log(most), math.inf)  # exp of it is no less than 3
    seen = set()
    # What comes from above counts, in its sign too.
    for from_above in (lambda value: value, lambda value: -value, lambda value: value * -2.5, lambda value: -(value**2)):
        free = torch.tensor(math.log(most), dtype=dtype, requires_grad=True)
        from_above(loss(i, free)).backward()
        expected = free.grad.clamp(min=0)
        seen.add(bool(expected > 0))
        for start, shape in ((bound, ()), (bound + 0.1, (1,)), (7.0, (1, 1))):
            s = torch.full(shape, start, dtype=double, requires_grad=True)
            from_above(loss(i, s, max_scale=most)).backward()
            assert s.grad.shape == shape
            torch.testing.assert_close(s.grad.reshape(()), expected.double(), **tolerance)
            assert (s.grad != 0).item() == (expected != 0).item()
        below = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        (g,) = torch.autograd.grad(from_above(loss(i, below, max_scale=most)), below)
        (expected,) = torch.autograd.grad(from_above(loss(i, below)), below)
        torch.testing.assert_close(g, expected, rtol=0, atol=0)
        assert g != 0
    assert seen == {True, False}
    # In compiled code, too.
    torch._dynamo.reset()
    compiled = torch.compile(lambda s: -loss(i, s, max_scale=most), backend="aot_eager", fullgraph=True)
    for sign in (1, -1):
        s, t = (torch.tensor(2.0, dtype=dtype, requires_grad=True) for _ in range(2))
        (sign * compiled(s)).backward()
        (-sign * loss(i, t, max_scale=most)).backward()
        torch.testing.assert_close(s.grad, t.grad, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [double, torch.float32])
@pytest.mark.parametrize("module", [craft.InfoNCELoss, craft.AnchorCrossEntropyLoss])
def test_scale_that_starts_at_its_maximum_learns(module, dtype):
    """As CLIP's does; of random rows, for which a smaller one is better. Clamping the parameter does the same."""
    i = inputs(dtype)
    rows = (i["x"], i["y"]) if module is craft.InfoNCELoss else (i["x"], i["a"], labels)

    def trained(**options):
        loss = module(log_scale=math.log(100), learn_scale=True, **options).to(dtype)
        bound = loss.log_scale.item()
        adam = torch.optim.Adam(loss.parameters(), lr=0.02)
        for _ in range(50):
            adam.zero_grad()
            loss(*rows).backward()
            adam.step()
            if not options:
                loss.log_scale.data.clamp_(max=bound)
        return loss.log_scale.detach()

    torch.testing.assert_close(trained(max_scale=100.0), trained(), **({} if dtype == double else dict(rtol=1e-4, atol=0)))
    assert trained(max_scale=100.0) < math.log(100) - 0.5


def test_gradcheck_of_learnt_kernels():
    i = inputs(grad=True)
    sigma = torch.tensor([0.5, 1.5], dtype=double, requires_grad=True)
    beta = torch.tensor([1.0, -0.3], dtype=double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: craft.mmd(i["x"].detach(), i["z"].detach(), "polynomial", s, degree=2), [sigma[1:].detach().requires_grad_()]
    )
    for kernel, shape in [("gaussian", 0.0), ("laplacian", 0.0), ("rational_quadratic", 1.3), ("inverse_multiquadric", 0.0)]:
        assert torch.autograd.gradcheck(
            lambda s, b: craft.mmd(i["x"].detach(), i["z"].detach(), kernel, s, b, shape=shape), [sigma, beta]
        )
    assert torch.autograd.gradcheck(
        lambda x, b: craft.mmd(x, i["z"].detach(), "energy", weights=b, shape=1e-8), [i["x"], beta[:1].detach().requires_grad_()]
    )


# ----------------------------------------------------------------------------------------------------------------------------
# torch.library's own checks, of every operator


def operator_cases():
    i, g = inputs(), inputs(grad=True)
    sigma = torch.tensor(sigmas, dtype=double)
    beta = torch.tensor(betas, dtype=double)
    learnt = {"learnable_bandwidths": sigma, "learnable_weights": beta}
    learnt_g = {k: v.clone().requires_grad_() for k, v in learnt.items()}
    objective = {"batch_texts": "y", "image_anchors": "b", "target_images": "z", "learnable_log_scale": "s"}
    hinge = {"x_labels": labels, "y_labels": others, "margin": 0.2}
    dout = random(9, 4, seed=7)
    return [
        ("mmd", (g["x"], g["z"]), learnt_g),
        ("mmd", (g["x"], i["z"]), {"bandwidths": sigmas, "x_weights": weights, "columns": "minmax_joint"}),
        ("mmd", (i["x"], i["z"]), {"x_weights": g["w"], "y_weights": g["v"]}),
        ("mmd_gradients", (i["x"], i["z"]), {**learnt, "x_weights": i["w"], "y_weights": i["v"], "wanted": [True] * 6}),
        ("mmd_gradients", (i["x"], i["z"]), {"wanted": [False, True, False, False, False, False]}),
        ("mmd_preset", (g["x"], g["z"], "tllib"), {}),
        ("mmd_preset_gradients", (i["x"], i["z"], "craft_multiscale"), {"wanted": [True, False, False, False]}),
        ("anchor_cross_entropy", (g["x"], g["a"], labels), {"learnable_log_scale": g["s"], "weights": weights}),
        ("anchor_cross_entropy", (g["x"], g["a"], soft), {}),
        ("anchor_cross_entropy", (i["x"], i["a"], g["t"]), {"weights": g["w"]}),
        (
            "anchor_cross_entropy_gradients",
            (i["x"], i["a"], labels),
            {"learnable_log_scale": i["s"], "wanted": [True, True, False, True, False]},
        ),
        ("anchor_cross_entropy_gradients", (i["x"], i["a"], i["t"]), {"weights": i["w"], "wanted": [False, False, True, False, True]}),
        ("info_nce", (g["x"], g["y"]), {"learnable_log_scale": g["s"], "x_labels": labels, "y_labels": others}),
        ("info_nce", (i["x"], i["y"]), {"weights": g["w"]}),
        ("info_nce_gradients", (i["x"], i["y"]), {"learnable_log_scale": i["s"], "weights": i["w"], "wanted": [True] * 4}),
        ("sigmoid_contrastive", (g["x"], g["y"]), {"learnable_log_scale": g["s"], "learnable_bias": g["s"].detach().requires_grad_()}),
        ("sigmoid_contrastive_gradients", (i["x"], i["y"]), {"learnable_bias": i["s"], "wanted": [True, False, False, True]}),
        ("cosine_embedding", (g["x"], g["y"]), hinge),
        ("cosine_embedding_gradients", (i["x"], i["y"]), {**hinge, "wanted": [True, False]}),
        ("objective", (g["x"], g["a"], labels), {k: g[v] for k, v in objective.items()}),
        ("objective", (g["x"], g["a"], labels), {}),
        ("objective_gradients", (i["x"], i["a"], labels), {**{k: i[v] for k, v in objective.items()}, "wanted": [True] * 6}),
        ("relative", (g["x"], g["a"]), {"learnable_log_scale": g["s"], "statistics": "standardise"}),
        ("uniformity", (g["x"],), {"t": 1.5}),
        ("uniformity_gradients", (i["x"],), {"wanted": [True]}),
        ("mmd", (g["x"], g["z"], "polynomial"), {"learnable_bandwidths": g["s"].reshape(1), "shape": 0.5, "degree": 2}),
        ("relative_pushforward", (i["x"], i["a"]), {"d_x": i["y"], "learnable_d_log_scale": i["s"]}),
        ("kernel_inception_distance", (i["x"], i["z"]), {"subsets": 2, "subset_size": 5}),
        ("relative_pullback", (i["x"], i["a"], dout), {"learnable_log_scale": i["s"], "wanted": [True, True, True]}),
        ("two_sample_test", (i["x"], i["z"]), {"permutations": 7}),
        ("bandwidth_scale", (i["x"], i["z"]), {}),
        ("class_means", (i["x"], labels, 4), {}),
        ("kmeans", (i["x"], 2), {}),
        ("kmeans_per_class", (i["x"], labels, 4, 2), {}),
        ("medoids", (i["x"], i["a"]), {}),
        ("stratified_anchors", (labels, 4, 2), {}),
        ("farthest_point_anchors", (i["x"], 3), {}),
    ]


@pytest.mark.parametrize("case", operator_cases(), ids=lambda c: c[0])
def test_opcheck(case):
    name, args, kwargs = case
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
    checks = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    if any(t.requires_grad for t in tensors):
        checks.append("test_autograd_registration")
    opcheck(getattr(ops, name).default, args, kwargs, test_utils=checks)


def test_opcheck_covers_every_operator():
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("craft::")}
    assert registered == {case[0] for case in operator_cases()}
    for name in registered:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"craft::{name}", "Autograd")


# ----------------------------------------------------------------------------------------------------------------------------
# torch.compile


class Adapter(torch.nn.Module):
    """A small step of training with everything in it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.adapter = torch.nn.Linear(5, 5)
        self.prompts = torch.nn.Parameter(torch.randn(4, 5))
        self.relative = craft.RelativeRepresentation(learn_scale=True)
        self.mmd = craft.MMDLoss(bandwidths=[1.0, 2.0], bandwidth_rule="median", learn_weights=True)
        self.info_nce = craft.InfoNCELoss(log_scale=1.0, learn_scale=True, max_scale=100.0)
        self.anchors = craft.AnchorCrossEntropyLoss(label_smoothing=0.1)
        self.sigmoid = craft.SigmoidLoss(learn_bias=True)
        self.objective = craft.CraftObjective(bandwidths=(1.0, 4.0), learn_scale=True, log_scale=1.0)

    def forward(self, x, y, z):
        x = x + self.adapter(x)
        loss = self.mmd(self.relative(x, self.prompts), self.relative(z, self.prompts)) + self.info_nce(x, y)
        loss = loss + self.anchors(x, self.prompts, labels) + self.sigmoid(x, y)
        objective = self.objective(x, self.prompts, labels, y, target_images=z)
        return loss + objective.total, torch.stack(objective[:-1])


def train(step, model, i, steps=3):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss, terms = step(i["x"], i["y"], i["z"])
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses), terms


@pytest.mark.parametrize("backend, dynamic", [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compiled_training_without_graph_breaks(backend, dynamic):
    i = inputs(torch.float32)
    eager, compiled = Adapter(), Adapter()
    expected, expected_terms = train(eager, eager, i)
    assert expected[-1] < expected[0]
    torch._dynamo.reset()
    losses, terms = train(torch.compile(compiled, backend=backend, fullgraph=True, dynamic=dynamic), compiled, i)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(terms, expected_terms)
    for (name, p), q in zip(compiled.named_parameters(), eager.parameters()):
        assert p.grad is not None and p.grad.abs().max() > 0, name
        torch.testing.assert_close(p, q)


def test_compiled_for_other_sizes():
    torch._dynamo.reset()
    step = torch.compile(lambda x, z: craft.mmd(craft.relative(x, z), craft.relative(z, z)), backend="aot_eager", fullgraph=True)
    for n in (9, 8, 6):
        x, z = random(n, 5, seed=n, grad=True), random(7, 5, seed=1)
        (g,) = torch.autograd.grad(step(x, z), x)
        (expected,) = torch.autograd.grad(craft.mmd(craft.relative(x, z), craft.relative(z, z)), x)
        torch.testing.assert_close(g, expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_gradients_of_weights_and_soft_targets(backend):
    def step(x, z, a, w, v, t):
        loss = craft.mmd(x, z, x_weights=w, y_weights=v) + craft.info_nce(x, 2 - x, log_scale=1.0, weights=w)
        return loss + craft.anchor_cross_entropy(x, a, t.softmax(1), log_scale=1.0, weights=w)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for n in (9, 8, 5):
        i = {key: t.detach()[: n if key in "xwt" else None].requires_grad_() for key, t in inputs().items() if key in "xzawvt"}
        inner = [i[key] for key in "xzawvt"]
        for g, e in zip(torch.autograd.grad(compiled(*inner), inner), torch.autograd.grad(step(*inner), inner)):
            torch.testing.assert_close(g, e)


# ----------------------------------------------------------------------------------------------------------------------------
# Types, memory, devices


def test_autocast_casts_to_the_widest():
    i = inputs(torch.float32, grad=True)
    half = i["x"].detach().bfloat16().requires_grad_()
    with pytest.raises(TypeError):
        craft.mmd(half, i["z"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = craft.mmd(half, i["z"])
        cross = craft.anchor_cross_entropy(half, i["a"], soft) + craft.relative(half, i["a"]).sum()
        total = craft.objective(half, i["a"], labels, target_images=i["z"]).total
        linear = torch.nn.functional.linear(i["x"], i["a"])
        assert linear.dtype == torch.bfloat16  # what a trainer's towers give then
        both_half = craft.mmd(linear, linear + 1)
    assert {t.dtype for t in (loss, cross, total, both_half)} == {torch.float32}
    (loss + cross + total).backward()
    assert half.grad.dtype == torch.bfloat16 and i["z"].grad.dtype == torch.float32
    torch.testing.assert_close(loss, craft.mmd(half.float(), i["z"]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each
def test_half_precision(name, dtype):
    ours, _, depends = pairs[name]
    i = inputs(dtype, grad=True)
    j = {key: t.detach().float().requires_grad_() for key, t in i.items()}
    loss, expected = ours(i), ours(j)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.backward()
    expected.backward()
    for key in depends:
        assert i[key].grad.dtype == dtype
        torch.testing.assert_close(i[key].grad, j[key].grad.to(dtype), rtol=1e-2, atol=1e-3)


def test_weights_and_soft_targets_of_other_types_than_the_rows():
    i, j = inputs(torch.float32), inputs(double, grad=True)
    w, v, t = (j[key].detach().to(dtype).requires_grad_() for key, dtype in (("w", double), ("v", torch.float16), ("t", torch.bfloat16)))
    loss = lambda i, w, v, t: (  # noqa: E731
        craft.mmd(i["x"], i["z"], x_weights=w, y_weights=v) + craft.anchor_cross_entropy(i["x"], i["a"], t, weights=w)
    )
    loss(i, w, v, t).backward()
    loss({key: i[key].double() for key in i}, j["w"], j["v"], j["t"]).backward()
    for ours, key, tolerance in ((w, "w", 1e-2), (v, "v", 2e-3), (t, "t", 1e-2)):  # w meets the rounded v and t
        assert ours.grad.dtype == ours.dtype
        torch.testing.assert_close(ours.grad.double(), j[key].grad, rtol=tolerance, atol=tolerance)


def test_half_gradients_do_not_underflow():
    i = inputs(torch.float16, grad=True)
    loss = craft.mmd(i["x"], i["z"], factor=1e-10)
    loss.backward(torch.tensor(1e10))
    j = {key: t.detach().float().requires_grad_() for key, t in i.items()}
    craft.mmd(j["x"], j["z"]).backward()
    torch.testing.assert_close(i["x"].grad.float(), j["x"].grad, rtol=1e-2, atol=1e-4)


@each
def test_rows_that_are_not_contiguous(name):
    ours, _, depends = pairs[name]
    i = inputs(grad=True)
    expected = torch.autograd.grad(ours(i), [i[key] for key in depends])
    for spread in (
        lambda t: torch.cat([t, t + 1], -1)[..., : t.shape[-1]],  # rows apart
        lambda t: torch.stack([t + 1, t], 0)[1],
        lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),  # transposed
        lambda t: torch.stack([t, t], -1)[..., 0],  # every second number
    ):
        j = {key: spread(t) if t.dim() else t for key, t in i.items()}
        assert not j["x"].is_contiguous() or j["x"].storage_offset() > 0
        for g, e in zip(torch.autograd.grad(ours(j), [i[key] for key in depends]), expected):
            torch.testing.assert_close(g, e)


def test_inputs_are_left_alone():
    i = inputs(grad=True)
    before = {key: t.detach().clone() for key, t in i.items()}
    for ours, _, _ in pairs.values():
        ours(i).backward()
    for key, t in i.items():
        assert torch.equal(t, before[key])


def test_meta_tensors():
    i = {key: t.to("meta") for key, t in inputs(torch.float16).items()}
    r = craft.relative(i["x"], i["a"])
    assert r.device.type == "meta" and r.shape == (9, 4) and r.dtype == torch.float32
    assert craft.class_means(i["x"], labels.to("meta"), 4).shape == (4, 5)
    assert craft.kmeans(i["x"], 3).assignment.shape == (9,)
    with pytest.raises(RuntimeError, match="expected all tensors to be on cpu, but y is on meta"):
        craft.mmd(random(3, 5, seed=1), i["x"].to(double))


# ----------------------------------------------------------------------------------------------------------------------------
# What is an error


@pytest.mark.parametrize(
    "error, message, call",
    [
        (TypeError, "x holds Long, expected float64, float32, float16 or bfloat16", lambda i: craft.mmd(i["x"].long(), i["z"])),
        (TypeError, "expected y of type float64, got float32", lambda i: craft.info_nce(i["x"], i["y"].float())),
        (
            TypeError,
            "x_labels holds Double, expected labels of int64 or int32",
            lambda i: craft.info_nce(i["x"], i["y"], x_labels=weights, y_labels=others),
        ),
        (
            ValueError,
            r"^mmd: x has 1 dimension \(5,\), expected a matrix with one sample per row: reshape it to \(-1, 1\), or to \(1, -1\)",
            lambda i: craft.mmd(i["x"][0], i["z"]),
        ),
        (
            ValueError,
            r"x has 3 dimensions \(1, 9, 5\), .*: reshape it to \(1, -1\); y has 3 dimensions \(7, 1, 5\), .*: reshape it to \(7, -1\)",
            lambda i: craft.mmd(i["x"][None], i["z"][:, None]),
        ),
        (ValueError, r"x has 1 dimension .*; anchors has 0 dimensions \(\)", lambda i: craft.relative(i["x"][0], i["a"][0, 0])),
        (
            ValueError,
            "objective: class_texts has 3 .*; target_images has 1 ",
            lambda i: craft.objective(i["x"], i["a"][None], labels, target_images=i["z"][0]),
        ),
        (ValueError, "class_means: x has 1 dimension", lambda i: craft.class_means(i["x"][0], labels, 4)),
        (ValueError, "kmeans: x has 3 dimensions", lambda i: craft.kmeans(i["x"][None], 2)),
        (ValueError, r"weights has 2 dimensions \(9, 1\), expected one", lambda i: craft.info_nce(i["x"], i["y"], weights=weights[:, None])),
        (ValueError, r"x_weights \(8,\): expected 9 rows, one per row of x \(9, 5\)", lambda i: craft.mmd(i["x"], i["z"], x_weights=weights[:8])),
        (
            ValueError,
            r"targets \(8,\): expected 9 rows, one per row of x \(9, 5\)",
            lambda i: craft.anchor_cross_entropy(i["x"], i["a"], labels[:8]),
        ),
        (
            TypeError,
            "targets holds Double in 1 dimension: labels are int64 or int32 in one, shares of the classes floating-point numbers in two",
            lambda i: craft.anchor_cross_entropy(i["x"], i["a"], weights),
        ),
        (ValueError, r"x \(9, 5\) and y \(7, 3\): their columns must agree", lambda i: craft.mmd(i["x"], i["z"][:, :3])),
        (ValueError, "without labels row i belongs to row i", lambda i: craft.info_nce(i["x"], i["z"])),
        (ValueError, "at least 2 rows", lambda i: craft.mmd(i["x"][:1], i["z"], estimator="unbiased")),
        (ValueError, "estimator: expected biased, unbiased or linear, got best", lambda i: craft.mmd(i["x"], i["z"], estimator="best")),
        (ValueError, "energy takes no bandwidth", lambda i: craft.mmd(i["x"], i["z"], "energy", [1.0])),
        (ValueError, "expected craft_rbf", lambda i: craft.mmd_preset(i["x"], i["z"], "mine")),
        (ValueError, "label_smoothing", lambda i: craft.anchor_cross_entropy(i["x"], i["a"], labels, label_smoothing=2.0)),
        (ValueError, r"log_scale must be one number, got \(9,\)", lambda i: craft.info_nce(i["x"], i["y"], log_scale=weights)),
        (ValueError, "log_scale 1000 gives", lambda i: craft.info_nce(i["x"].float(), i["y"].float(), log_scale=1000.0)),
        (IndexError, "is 3, expected 0 to 2", lambda i: craft.anchor_cross_entropy(i["x"], i["a"][:3], labels)),
        (ValueError, "class 4 has no rows", lambda i: craft.class_means(i["x"], labels, 5)),
        (ValueError, r"targets \(9, 2\): expected 4 columns", lambda i: craft.anchor_cross_entropy(i["x"], i["a"], soft[:, :2])),
        # What torch says of operators' schemas is said as everywhere.
        (TypeError, "mmd: y is a numpy.ndarray: expected a torch.Tensor, as x is", lambda i: craft.mmd(i["x"], i["z"].numpy())),
        (TypeError, "mmd: y is a list: expected a torch.Tensor", lambda i: craft.mmd(i["x"], [[1.0]])),
        (TypeError, "estimator: expected a name, got 1", lambda i: craft.mmd(i["x"], i["z"], estimator=1)),
        (TypeError, "factor: expected a number, got 'big'", lambda i: craft.mmd(i["x"], i["z"], factor="big")),
        # Modules say it when they are made.
        (ValueError, "kernel: expected gaussian, laplacian, .*, got gauss", lambda i: craft.MMDLoss("gauss")),
        (ValueError, "1 weights for 2 kernels", lambda i: craft.MMDLoss(bandwidths=(1, 2), weights=(1,))),
        (ValueError, r"label_smoothing must lie in \[0, 1\], got 2", lambda i: craft.InfoNCELoss(label_smoothing=2.0)),
        (TypeError, "normalise: expected True or False, got 'no'", lambda i: craft.RelativeRepresentation(normalise="no")),
        (
            NotImplementedError,
            "no gradient by x_labels",
            lambda i: craft.info_nce(i["x"], i["y"], x_labels=weights.clone().requires_grad_(), y_labels=others),
        ),
        (
            ValueError,
            "linear-time estimator takes no sample weights",
            lambda i: craft.mmd(i["x"], i["z"], estimator="linear", x_weights=weights.clone().requires_grad_()),
        ),
        (
            ValueError,
            "no gradient of targets: labels have none",
            lambda i: ops.anchor_cross_entropy_gradients(i["x"], i["a"], labels, wanted=[False, False, True, False, False]),
        ),
        (
            ValueError,
            "a gradient is wanted of a tensor that is not given",
            lambda i: ops.mmd_gradients(i["x"], i["z"], wanted=[False, False, False, False, True, False]),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(inputs())


@each
def test_second_derivatives_are_errors(name):
    ours, _, depends = pairs[name]
    i = inputs(grad=True)
    x = i[depends[0]]
    (g,) = torch.autograd.grad(ours(i), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        torch.autograd.grad(g.sum(), x, allow_unused=True, retain_graph=True)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        g.sum().backward()


def test_other_derivatives_are_errors():
    i = inputs()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(i["x"], torch.ones_like(i["x"]))
        with pytest.raises(NotImplementedError, match="forward mode"):
            craft.class_means(dual, labels, 4)
    anchors = craft.class_means(inputs(grad=True)["x"], labels, 4)
    with pytest.raises(NotImplementedError, match="x.detach"):
        anchors.sum().backward()


@pytest.mark.parametrize("name", list(pairs))
def test_forward_mode(name):
    ours, _, depends = pairs[name]
    i = inputs(grad=True)
    tangents = [random(*i[key].shape, 1, seed=30 + k).squeeze(-1) for k, key in enumerate(depends)]
    constant = inputs()
    gradients = torch.autograd.grad(ours(i), [i[key] for key in depends])
    expected = sum((g * t).sum() for g, t in zip(gradients, tangents))
    loss = lambda *changed: ours({**constant, **dict(zip(depends, changed))})  # noqa: E731
    value, tangent = torch.func.jvp(loss, tuple(i[key].detach() for key in depends), tuple(tangents))
    torch.testing.assert_close(value, ours(constant))
    torch.testing.assert_close(tangent, expected)


@pytest.mark.filterwarnings("error")
def test_batches_by_vmap():
    x, y, s = random(3, 6, 4, seed=1), random(3, 5, 4, seed=2), torch.tensor([0.5, 1.0, 2.0], dtype=double)
    one = lambda x, y, s: craft.mmd(x, y) + craft.info_nce(x[:5], y, log_scale=s)  # noqa: E731
    each_of = [one(*e) for e in zip(x, y, s)]
    torch.testing.assert_close(torch.vmap(one)(x, y, s), torch.stack(each_of))
    torch.testing.assert_close(torch.vmap(one, in_dims=(1, 0, None))(x.movedim(0, 1), y, s[1]), torch.stack([one(*e, s[1]) for e in zip(x, y)]))
    torch.testing.assert_close(torch.vmap(craft.relative)(x, y), torch.stack([craft.relative(*e) for e in zip(x, y)]))
    gradients = torch.vmap(torch.func.grad(one, argnums=(0, 2)))(x, y, s)
    for b in range(3):
        for g, e in zip(gradients, torch.func.grad(one, argnums=(0, 2))(x[b], y[b], s[b])):
            torch.testing.assert_close(g[b], e)
    x.requires_grad_()
    torch.vmap(one)(x, y, s).sum().backward()
    torch.testing.assert_close(x.grad, gradients[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic):
    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mmd = craft.MMDLoss(bandwidths=[1.0, 2.0], learn_bandwidths=True)

        def forward(self, x, z):
            return self.mmd(x, z) + craft.info_nce(x, 2 - x, log_scale=1.0)

    i = inputs()
    rows = torch.export.Dim("rows", min=2, max=64)
    exported = torch.export.export(Loss(), (i["x"], i["z"]), dynamic_shapes=({0: rows}, None) if dynamic else None)
    n = 6 if dynamic else 9
    torch.testing.assert_close(exported.module()(i["x"][:n], i["z"]), Loss()(i["x"][:n], i["z"]))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules():
    i = inputs(torch.float32)
    for module, arguments in (
        (craft.MMDLoss(bandwidths=[1.0, 2.0], bandwidth_rule="median"), (i["x"], i["z"])),
        (craft.MMDLoss("laplacian", [1.0], learn_bandwidths=True), (i["x"], i["z"], i["w"])),
        (craft.MMDPresetLoss("cmmd"), (i["x"], i["z"])),
        (craft.AnchorCrossEntropyLoss(max_scale=50.0), (i["x"], i["a"], labels)),
        (craft.InfoNCELoss(learn_scale=True, log_scale=1.0), (i["x"], i["y"])),
        (craft.SigmoidLoss(learn_bias=True), (i["x"], i["y"])),
        (craft.CosineEmbeddingLoss(margin=0.1), (i["x"], i["y"])),
        (craft.RelativeRepresentation("gaussian", [2.0]), (i["x"], i["a"])),
        (craft.CraftObjective(mmd=2.0), (i["x"], i["a"], labels, None, None, i["z"])),
    ):
        scripted, expected = torch.jit.script(module)(*arguments), module(*arguments)
        for one, other in zip(scripted, expected) if isinstance(expected, tuple) else [(scripted, expected)]:
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_gradients_by_name_are_those_of_backward():
    i, g = inputs(), inputs(grad=True)
    loss = craft.info_nce(g["x"], g["y"], log_scale=g["s"], weights=g["w"], max_scale=2.0)
    (-2 * loss).backward()
    names = {"x": "x", "y": "y", "log_scale": "s", "weights": "w"}
    for given in (i, g):  # also of tensors that require a gradient
        value, found = craft.info_nce(
            given["x"], given["y"], log_scale=given["s"], weights=given["w"], max_scale=2.0, upstream=-2.0, gradients=tuple(names)
        )
        assert not value.requires_grad
        torch.testing.assert_close(value, loss.detach())
        for name, key in names.items():
            torch.testing.assert_close(found[name], g[key].grad.reshape(found[name].shape))


def test_gradients_by_torch_func():
    i = inputs(grad=True)
    gradient = torch.func.grad(lambda x: craft.mmd(x, i["z"].detach()))
    (expected,) = torch.autograd.grad(craft.mmd(i["x"], i["z"]), i["x"])
    assert torch.equal(gradient(i["x"].detach()), expected)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        torch.func.grad(lambda x: gradient(x).sum())(i["x"].detach())
    of_map = lambda x: (craft.relative(x, i["a"].detach()) ** 2).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(of_map)(i["x"].detach()), torch.autograd.grad(of_map(i["x"]), i["x"])[0])


def test_the_graph_is_one_of_torch():
    x, z = inputs(grad=True)["x"], inputs()["z"]
    loss = craft.mmd(x, z)
    loss.backward(retain_graph=True)
    expected = x.grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 3 * expected)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or -t, lambda t: -2 * t):
        loss = craft.mmd(x, z)
    assert saved == [x.shape]
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], 2 * expected)


def test_no_graph_without_need():
    i = inputs(grad=True)
    with torch.no_grad():
        assert not craft.mmd(i["x"], i["z"]).requires_grad
    with torch.inference_mode():
        assert not craft.mmd(i["x"], i["z"]).requires_grad
    assert not craft.mmd(i["x"].detach(), i["z"].detach()).requires_grad
    assert [t.requires_grad for t in craft.objective(i["x"], i["a"], labels)] == [False] * 4 + [True]


# ----------------------------------------------------------------------------------------------------------------------------
# Modules


def test_modules_are_the_functions_with_their_options():
    i = inputs()
    same = [
        (craft.MMDLoss(bandwidths=sigmas, weights=betas)(i["x"], i["z"]), pairs["mmd"][0](i)),
        (craft.MMDPresetLoss("cmmd")(i["x"], i["z"]), pairs["mmd_preset"][0](i)),
        (
            craft.AnchorCrossEntropyLoss(log_scale=math.log(3.0), label_smoothing=0.1)(i["x"], i["a"], labels),
            pairs["anchor_cross_entropy"][0](i),
        ),
        (craft.InfoNCELoss(log_scale=math.log(3.0))(i["x"], i["y"]), pairs["info_nce"][0](i)),
        (
            craft.SigmoidLoss(log_scale=math.log(3.0), bias=-2 * math.log(3.0))(i["x"], i["y"]),
            pairs["sigmoid_contrastive"][0](i),
        ),
        (craft.RelativeRepresentation()(i["x"], i["a"]), craft.relative(i["x"], i["a"])),
        (
            craft.CraftObjective(log_scale=math.log(3.0))(i["x"], i["a"], labels, i["y"], i["b"], i["z"]).total,
            pairs["objective"][0](i),
        ),
        # What the operators do by default.
        (craft.InfoNCELoss()(i["x"], i["y"]), ops.info_nce(i["x"], i["y"])),
        (craft.AnchorCrossEntropyLoss()(i["x"], i["a"], labels), ops.anchor_cross_entropy(i["x"], i["a"], labels)),
        (craft.SigmoidLoss()(i["x"], i["y"]), ops.sigmoid_contrastive(i["x"], i["y"])),
        (craft.MMDLoss()(i["x"], i["z"]), ops.mmd(i["x"], i["z"])),
        (craft.RelativeRepresentation()(i["x"], i["a"]), ops.relative(i["x"], i["a"])),
        (craft.CraftObjective()(i["x"], i["a"], labels).total, ops.objective(i["x"], i["a"], labels)[0]),
    ]
    for ours, expected in same:
        torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)


def test_modules_give_gradients_to_weights_and_soft_targets():
    i, g = inputs(), inputs(grad=True)
    for loss, keys in (
        (craft.MMDLoss(bandwidths=sigmas)(i["x"], i["z"], g["w"], y_weights=g["v"]), "wv"),
        (craft.AnchorCrossEntropyLoss()(i["x"], i["a"], labels, g["w"]), "w"),
        (craft.AnchorCrossEntropyLoss()(i["x"], i["a"], g["t"], weights=g["w"]), "tw"),
        (craft.InfoNCELoss()(i["x"], i["y"], weights=g["w"]), "w"),
    ):
        for gradient in torch.autograd.grad(loss, [g[key] for key in keys]):
            assert gradient.abs().max() > 1e-4


def test_learnable_parts():
    i = inputs(torch.float32)
    loss = craft.MMDLoss(bandwidths=[1.0, 2.0], learn_bandwidths=True, learn_weights=True)
    assert {name: p.tolist() for name, p in loss.named_parameters()} == {"bandwidths": [1.0, 2.0], "weights": [1.0, 1.0]}
    loss(i["x"], i["z"]).backward()
    assert all(p.grad.abs().min() > 0 for p in loss.parameters())
    again = craft.MMDLoss(bandwidths=[3.0, 4.0], learn_bandwidths=True, learn_weights=True)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(i["x"], i["z"]), loss(i["x"], i["z"]))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(i["x"], i["z"]), loss(i["x"], i["z"]))
    assert repr(craft.MMDLoss(bandwidths=2, estimator="linear")) == "MMDLoss(bandwidths=[2.0], estimator='linear')"
    assert not list(craft.InfoNCELoss().parameters())
    contrast = craft.InfoNCELoss(learn_scale=True)
    contrast(i["x"], i["y"]).backward()
    assert contrast.log_scale.shape == () and contrast.log_scale.grad.abs() > 0


def test_anchors():
    i = inputs()
    means = craft.class_means(i["x"], labels, 4)
    torch.testing.assert_close(means, torch.stack([i["x"][labels == c].mean(0) for c in range(4)]))
    unit = craft.class_means(i["x"], labels, 4, normalise=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4, dtype=double))
    found = craft.kmeans(i["x"], 3, seed=1)
    torch.testing.assert_close(found.centres, torch.stack([i["x"][found.assignment == c].mean(0) for c in range(3)]))
    torch.testing.assert_close(found.inertia, ((i["x"] - found.centres[found.assignment]) ** 2).sum())
    per_class = craft.kmeans_per_class(i["x"], labels, 4, 1)
    torch.testing.assert_close(per_class.centres, means)
    assert torch.equal(per_class.assignment, labels)
    assert found.distinct == 3 and found.distinct.dtype == torch.int64
    few = craft.kmeans(i["x"][:2].repeat(3, 1), 4)
    assert few.distinct == 2 and few.inertia == 0 and len(set(few.assignment.tolist())) == 2
    rows = craft.farthest_point_anchors(i["x"], 3, start=2)
    assert rows[0] == 2 and rows[1] == (i["x"] - i["x"][2]).norm(dim=1).argmax()


# ----------------------------------------------------------------------------------------------------------------------------
# The example


@pytest.fixture
def example():
    path = Path(__file__).parents[2] / "examples/torch/train.py"
    spec = importlib.util.spec_from_file_location("train", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_trains(example):
    on_target = example.main()
    assert on_target["alignment and MMD"] > max(on_target["before training"], on_target["alignment"])


def test_example_in_pieces_has_the_gradient_of_the_whole(example):
    torch.manual_seed(1)
    images, whole, pieces = torch.randn(100, example.DIMENSIONS), example.Adapter(), example.Adapter()
    loss = lambda f: craft.info_nce(f[:50], f[50:], log_scale=1.0)  # noqa: E731
    expected = loss(whole(images))
    expected.backward()
    torch.testing.assert_close(example.backward_in_pieces(pieces, images, loss), expected)
    for p, q in zip(pieces.parameters(), whole.parameters()):
        assert q.grad.abs().max() > 1e-4
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


def test_names_of_the_package_itself():
    assert craft_align.MMDLoss is craft.MMDLoss
    assert craft_align.torch is craft
    assert craft_align.mmd is craft.mmd
    assert "CraftObjective" in dir(craft_align)
    with pytest.raises(AttributeError):
        craft_align.nothing
