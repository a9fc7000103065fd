"""PyTorch: learnable prompts and an adapter of image features, trained by Adam on craft's losses. A labelled domain, and one without
labels whose features are shifted: its accuracy with and without the discrepancy between the two. The features pass through
the adapter in small pieces, though the losses look at whole batches.

    python examples/torch/train.py
"""

import math

import craft_align
import torch
from torch import nn

CLASSES, DIMENSIONS, PER_CLASS, PIECE = 6, 32, 40, 48


def make_features():
    """Stand-ins for what frozen encoders give: class texts, labelled images, images of another domain."""
    prototypes = torch.randn(CLASSES, DIMENSIONS)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    texts = prototypes + 0.5 * torch.randn(CLASSES, DIMENSIONS)
    source = prototypes[labels] + 2 * torch.randn(len(labels), DIMENSIONS)
    target = prototypes[labels] + 2 * torch.randn(len(labels), DIMENSIONS) + 3 * torch.randn(1, DIMENSIONS)
    return texts, source, target, labels


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.change = nn.Linear(DIMENSIONS, DIMENSIONS)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, x):
        return x + self.change(x)


class Losses(nn.Module):
    def __init__(self, texts, discrepancy):
        super().__init__()
        self.prompts = nn.Parameter(texts.clone())
        self.anchors = craft_align.AnchorCrossEntropyLoss(log_scale=math.log(10), learn_scale=True, max_scale=100)
        self.contrast = craft_align.InfoNCELoss(log_scale=math.log(10), learn_scale=True, max_scale=100)
        self.relative = craft_align.RelativeRepresentation()
        self.mmd = craft_align.MMDLoss(bandwidths=(0.5, 1.0, 2.0), bandwidth_rule="median")
        self.discrepancy = discrepancy

    def forward(self, source, target, labels):
        loss = self.anchors(source, self.prompts, labels)
        loss = loss + self.contrast(source, self.prompts[labels], labels, labels)
        return loss + self.discrepancy * self.mmd(self.relative(source, self.prompts), self.relative(target, self.prompts))


def backward_in_pieces(encoder, images, loss_of_features):
    """Gradients of a loss of all features, with the encoder's graph in memory for one piece at a time. Not the same as adding the
    losses of the pieces up."""
    pieces = images.split(PIECE)
    with torch.no_grad():
        features = torch.cat([encoder(piece) for piece in pieces])
    features.requires_grad_()
    loss = loss_of_features(features)
    loss.backward()
    for piece, gradient in zip(pieces, features.grad.split(PIECE)):
        (encoder(piece) * gradient).sum().backward()
    return loss.detach()


def train(adapter, losses, source, target, labels, steps=150):
    optimiser = torch.optim.Adam([*adapter.parameters(), *losses.parameters()], lr=2e-3)
    images = torch.cat([source, target])
    for _ in range(steps):
        optimiser.zero_grad()
        loss = backward_in_pieces(adapter, images, lambda f: losses(f[: len(source)], f[len(source) :], labels))
        optimiser.step()
    return loss


def accuracy(adapter, losses, images, labels):
    with torch.no_grad():
        nearest = losses.relative(adapter(images), losses.prompts).argmax(1)
    return 100 * (nearest == labels).double().mean().item()


def main():
    torch.manual_seed(0)
    texts, source, target, labels = make_features()
    print("loss                      value  source %  target %")
    on_target = {}
    for name, discrepancy in (("before training", None), ("alignment", 0), ("alignment and MMD", 10)):
        adapter, losses = Adapter(), Losses(texts, discrepancy)
        loss = "" if discrepancy is None else f"{train(adapter, losses, source, target, labels):.3f}"
        on_target[name] = accuracy(adapter, losses, target, labels)
        print(f"{name:22s} {loss:>8s} {accuracy(adapter, losses, source, labels):9.1f} {on_target[name]:9.1f}")
    return on_target


if __name__ == "__main__":
    main()
