"""Prompt tuning on frozen features, its losses written by hand and with craft, and what the change saves.

    python prompt_tuning.py                  trains on generated features and reports accuracies
    python prompt_tuning.py --images images.npy --labels labels.npy --texts texts.npy --target target.npy
    python prompt_tuning.py --fashion-mnist  the same on real images
    python prompt_tuning.py --compare        time and memory of a training step, by hand and with craft
    python prompt_tuning.py --smoke          do both give the same numbers? A few seconds; exit status 1 if not

images: n x d features of a frozen image tower. labels: n integers; rows with a negative one are left out. texts: C x d
features of a frozen text tower, one row per class. target (optional): m x d features of images of another domain;
target-labels (optional): m integers, to report the accuracy there.

What is trained is what MaPLe and PromptSRC train, brought down to features: a prompt for each class, a context that all
classes share, and an adapter of the image features. The terms of the loss:

    text, image, batch   Craft's alignment: images seen through class texts, class texts seen through the classes' mean
                         images, images seen through the texts of their batch
    mmd                  Craft's discrepancy between images of both domains, seen through class texts
    keep_images, keep_texts, keep_logits   PromptSRC's consistency with the frozen features and their logits

prompt_tuning_step.py has them. J. Sun et al., "Craft", arXiv 2407.15894; M. Khattak et al., "MaPLe", arXiv 2210.03117, and
"Self-regulating Prompts", arXiv 2307.06948.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import torch
from torch import nn

import craft_align

sys.dont_write_bytecode = True  # sources are not the place for what is built
import prompt_tuning_data as data
from prompt_tuning_step import VARIANTS, WEIGHTS, Losses, Recipe, Step, Towers, Trainer


class Progress:
    """A bar on standard error, if that is a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, -1
        self.step()

    def step(self) -> None:
        self.done += 1
        if sys.stderr.isatty():
            filled = 30 * self.done // self.total
            text = f"\r{self.what:<12} [{'#' * filled:.<30}] {100 * self.done // self.total:3d} %"
            print(text, end="\n" if self.done == self.total else "", file=sys.stderr, flush=True)


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


# ----------------------------------------------------------------------------------------------------------------------
# Training


@torch.no_grad()
def accuracies(towers: Towers, task: data.Task) -> dict[str, float]:
    """Per cent, by domain: base classes told apart among themselves, and held-out ones among themselves by their texts."""
    dtype, base, out = towers.adapter.dtype, task.base_classes, {}
    texts = towers.texts(task.texts.to(dtype))
    for domain, (images, labels) in task.tests.items():
        cosines = towers.images(images.to(dtype)) @ texts.T
        for name, first, last in (("base", 0, base), ("held-out", base, len(texts))):
            rows = (labels >= first) & (labels < last)
            if rows.any() and last - first > 1:
                right = cosines[rows, first:last].argmax(1) + first == labels[rows]
                out[f"{domain} {name}"] = 100 * right.double().mean().item()
    return out


def train(args: argparse.Namespace) -> dict:
    if args.images:
        features = data.from_files(args.images, args.labels, args.texts, args.target, args.target_labels)
    elif args.fashion_mnist:
        features = data.fashion_mnist(args.fashion_mnist)
    else:
        features = data.generated()
    runs = []
    for seed in range(args.seed, args.seed + args.seeds):
        task = data.split(features, args.base_classes, args.shots, seed)
        terms = [term for term in args.terms if term != "mmd" or task.target is not None]
        trainer = Trainer(task, VARIANTS[args.losses](terms, args.mmd), args.recipe, args.dtype, seed)
        run = {"seed": seed, "before": accuracies(trainer.towers, task), "loss": []}
        progress = Progress(f"seed {seed}", trainer.steps)
        for _ in range(trainer.steps):
            run["loss"].append(trainer.step())
            progress.step()
        run["after"] = accuracies(trainer.towers, task)
        runs.append(run)
        if args.save:
            Path(args.save).mkdir(parents=True, exist_ok=True)
            parameters = {name: p.detach().numpy() for name, p in trainer.towers.named_parameters()}
            np.savez(Path(args.save) / f"seed{seed}.npz", **parameters)
    return {"losses": args.losses, "terms": terms, "mmd": args.mmd, "base_classes": task.base_classes, "runs": runs}


def training_table(result: dict) -> str:
    def cell(numbers: list[float]) -> str:
        return f"{statistics.mean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")

    runs = result["runs"]
    tests = list(runs[0]["after"])
    lines = [f"Accuracy in per cent, {result['base_classes']} base classes; terms: {', '.join(result['terms'])}", ""]
    lines += [row("training", *tests), row(*["---"] * (len(tests) + 1))]
    for when in ("before", "after"):
        lines.append(row(when, *(cell([run[when][test] for run in runs]) for test in tests)))
    first, last = (cell([run["loss"][i] for run in runs]) for i in (0, -1))
    return "\n".join([*lines, "", f"Loss of the first batch {first}, of the last {last}"])


# ----------------------------------------------------------------------------------------------------------------------
# Do both give the same?

# Largest differences: of losses, relative to the largest loss, and of parameters, relative to how far they have moved. What
# differs is the order of sums, and what training makes of that; one sees 1e-15 and 1e-6.
TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-4)}


def differences(task: data.Task, terms: list[str], mmd: str, recipe: Recipe, dtype: torch.dtype) -> tuple[float, float]:
    curves, ends = [], []
    for variant in VARIANTS.values():
        trainer = Trainer(task, variant(terms, mmd), recipe, dtype, seed=0)
        curves.append(torch.tensor([trainer.step() for _ in range(trainer.steps)], dtype=torch.float64))
        ends.append(nn.utils.parameters_to_vector(trainer.towers.parameters()).double())
    loss = (curves[0] - curves[1]).abs().max() / curves[0].abs().max()
    return loss.item(), ((ends[0] - ends[1]).norm() / ends[0].norm()).item()


def smoke() -> dict:
    task = data.split(data.generated(classes=8, per_class=20, width=32), None, 8, seed=0)
    recipe = Recipe(epochs=5, batch=16, target_batch=30)
    cases = [(["text", term], "gaussian") for term in ("image", "batch", "mmd", "keep_logits")]
    cases += [(list(WEIGHTS), "gaussian"), (list(WEIGHTS), "craft_rbf")]
    checks = []
    for dtype, (of_loss, of_parameters) in TOLERANCES.items():
        for terms, mmd in cases:
            loss, parameters = differences(task, terms, mmd, recipe, dtype)
            check = {"type": str(dtype)[6:], "terms": terms, "mmd": mmd, "loss": loss, "parameters": parameters}
            checks.append({**check, "agree": loss <= of_loss and parameters <= of_parameters})
    return {"checks": checks}


def smoke_table(result: dict) -> str:
    lines = [row("type", "terms", "MMD", "losses differ by", "parameters by", "agree"), row(*["---"] * 6)]
    for c in result["checks"]:
        terms = "all" if c["terms"] == list(WEIGHTS) else ", ".join(c["terms"])
        numbers = f"{c['loss']:.1e}", f"{c['parameters']:.1e}"
        lines.append(row(c["type"], terms, c["mmd"], *numbers, "yes" if c["agree"] else "NO"))
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------------------
# What the change saves

WIDTH, CLASSES = 512, 100
SIZES = [(64, 0), (256, 0), (1024, 0), (4096, 0), (64, 1024), (256, 1024), (1024, 1024), (64, 4096), (1024, 4096), (64, 8192), (1024, 8192)]


def sized_trainer(variant: str, batch: int, target_batch: int, args: argparse.Namespace) -> Trainer:
    """On generated features: the time does not depend on what they show."""
    per_class = math.ceil(max(batch, target_batch) / CLASSES)
    images, labels, texts, target, _ = data.generated(0, CLASSES, per_class, WIDTH)
    task = data.Task(texts, CLASSES, images, labels, target if target_batch else None, {})
    terms = [term for term in WEIGHTS if term != "mmd" or target_batch]
    recipe = Recipe(epochs=10**6, batch=batch, target_batch=target_batch)
    return Trainer(task, VARIANTS[variant](terms, args.mmd), recipe, args.dtype, seed=0)


def in_turn(calls: list[Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, and the median of their ratios: one call of each in turn, so that both see the same
    weather on the machine, for so many seconds, at least 5 times."""

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    for call in calls:
        call()
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < 5 or (time.perf_counter() - start < seconds and len(rounds) < 1000):
        rounds.append([timed(call) for call in calls])
    medians = map(statistics.median, zip(*rounds))
    return {**dict(zip(VARIANTS, medians)), "ratio": statistics.median(by_hand / craft for by_hand, craft in rounds)}


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")


def memory_of_step(args: argparse.Namespace) -> Optional[int]:
    """The most memory resident during one step beyond what was before it, in a process of its own; None where the system
    does not say (only Linux does). A step on a few rows comes first, so that libraries, threads and the optimiser's state
    are there. torch's profiler would see torch's allocations only, not the scratch memory of craft."""
    trainer = sized_trainer(args.memory_of, args.batch, args.target_batch, args)
    trainer.recipe.batch, trainer.recipe.target_batch = 4, 4
    trainer.step()
    trainer.recipe.batch, trainer.recipe.target_batch = args.batch, args.target_batch
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the most so far := what is resident now
    except (OSError, AttributeError):
        return None
    trainer.step()
    return resident("VmHWM") - before


def measured_memory(variant: str, batch: int, target_batch: int, args: argparse.Namespace) -> Optional[int]:
    options = {"--memory-of": variant, "--batch": batch, "--target-batch": target_batch, "--mmd": args.mmd}
    options |= {"--dtype": args.dtype_name, "--threads": args.threads}
    command = [sys.executable, __file__, *(str(word) for option in options.items() for word in option)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare_terms(batch: int, target_batch: int, args: argparse.Namespace) -> dict[str, dict]:
    """Value and gradient of every term by itself."""
    trainer = sized_trainer("craft", batch, target_batch, args)
    labels, anchors = trainer.labels[:batch], trainer.image_anchors
    frozen = trainer.images[:batch], trainer.texts, trainer.target[:target_batch]
    tuned = [x.clone().requires_grad_() for x in frozen]

    def call(losses: Losses, term: str) -> None:
        for x in tuned:
            x.grad = None
        images, texts, target = tuned
        step = Step(images, labels, texts, target, frozen[0], frozen[1], anchors)
        getattr(losses, term)(step).backward()

    variants = [losses([], args.mmd) for losses in VARIANTS.values()]
    terms = ("text", "image", "keep_logits", "batch", "mmd")
    return {term: in_turn([functools.partial(call, v, term) for v in variants], args.seconds) for term in terms}


def compare(args: argparse.Namespace) -> dict:
    targets = [target_batch for _, target_batch in args.sizes if target_batch]
    by_terms = sorted({(n, max(targets)) for n, m in args.sizes if m}, key=lambda s: s[0])
    by_terms = [by_terms[0], by_terms[-1]] if len(by_terms) > 1 else by_terms
    progress = Progress("comparing", len(args.sizes) + len(by_terms))
    result = {"torch": torch.__version__, "craft_align": craft_align.__version__, "threads": args.threads}
    result |= {"type": args.dtype_name, "mmd": args.mmd, "width": WIDTH, "classes": CLASSES, "steps": [], "terms": []}
    for batch, target_batch in args.sizes:
        trainers = [sized_trainer(variant, batch, target_batch, args) for variant in VARIANTS]
        by_hand, craft = (trainer.step() for trainer in trainers)  # from the same parameters, with the same batch
        if not abs(by_hand - craft) <= TOLERANCES[args.dtype][0] * max(1, abs(by_hand)):  # logits are some tens
            raise AssertionError(f"{batch} x {target_batch}: the losses disagree: {by_hand} by hand, {craft} with craft")
        seconds = in_turn([trainer.step for trainer in trainers], args.seconds)
        memory = {variant: measured_memory(variant, batch, target_batch, args) for variant in VARIANTS}
        result["steps"].append({"batch": batch, "target_batch": target_batch, "seconds": seconds, "bytes": memory})
        progress.step()
    for batch, target_batch in by_terms:
        seconds = compare_terms(batch, target_batch, args)
        result["terms"].append({"batch": batch, "target_batch": target_batch, "seconds": seconds})
        progress.step()
    return result


def compare_table(result: dict) -> str:
    def milliseconds(seconds: dict[str, float]) -> list[str]:
        return [*(f"{1000 * seconds[variant]:.2f}" for variant in VARIANTS), f"{seconds['ratio']:.2f}"]

    def megabytes(by_hand: Optional[int], craft: Optional[int]) -> list[str]:
        if not by_hand or not craft:
            return ["-"] * 3
        return [f"{by_hand / 1e6:.1f}", f"{craft / 1e6:.1f}", f"{by_hand / craft:.1f}"]

    setting = f"d = {result['width']}, C = {result['classes']}, {result['type']}, {result['threads']} thread(s)"
    lines = [
        f"A training step, {setting}, torch {result['torch']}. Ratio: by hand / craft, the median of calls in turn.",
        "",
        row("batch", "target", "by hand, ms", "craft, ms", "ratio", "by hand, MB", "craft, MB", "ratio"),
        row(*["---"] * 8),
    ]
    for s in result["steps"]:
        cells = milliseconds(s["seconds"]) + megabytes(**s["bytes"])
        lines.append(row(s["batch"], s["target_batch"] or "none", *cells))
    for t in result["terms"]:
        lines += ["", f"Its terms by themselves, value and gradient, batch {t['batch']}, target {t['target_batch']}:", ""]
        lines += [row("term", "by hand, ms", "craft, ms", "ratio"), row(*["---"] * 4)]
        lines += [row(term, *milliseconds(seconds)) for term, seconds in t["seconds"].items()]
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def sizes(text: str) -> tuple[int, int]:
    batch, target_batch = map(int, text.split("x"))
    if batch < 2 or target_batch < 0 or target_batch == 1:
        raise ValueError
    return batch, target_batch


def parse(words: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("features")
    for name in ("images", "labels", "texts", "target", "target-labels"):
        what.add_argument(f"--{name}", metavar="FILE", help=".npy")
    fashion = {"nargs": "?", "metavar": "FOLDER", "const": "/usr/share/datasets/fashion-mnist"}
    what.add_argument("--fashion-mnist", **fashion, help="with its files (default: where Debian's package puts them)")
    recipe = Recipe()
    how = parser.add_argument_group("training")
    how.add_argument("--losses", choices=VARIANTS, default="craft")
    how.add_argument("--terms", default=",".join(WEIGHTS), metavar="A,B,...", help="of the loss (default: all)")
    how.add_argument("--mmd", choices=["gaussian", "craft_rbf"], default="gaussian", help="craft_rbf: as Craft's code has it")
    how.add_argument("--base-classes", type=count, help="trained on (default: half); the others are held out")
    how.add_argument("--shots", type=count, default=16, help="labelled images per base class (%(default)s)")
    how.add_argument("--epochs", type=count, default=recipe.epochs, help="(%(default)s)")
    how.add_argument("--batch", type=count, default=recipe.batch, help="images per step (%(default)s)")
    how.add_argument("--target-batch", type=int, default=recipe.target_batch, help="(%(default)s)")
    how.add_argument("--learning-rate", type=float, default=recipe.learning_rate, help="(%(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the first run (%(default)s)")
    how.add_argument("--seeds", type=count, default=3, help="runs, each with other shots (%(default)s)")
    how.add_argument("--save", metavar="FOLDER", help="trained parameters go there, seed0.npz and so on")
    both = parser.add_argument_group("by hand and with craft")
    both.add_argument("--smoke", action="store_true", help="whether both give the same numbers")
    both.add_argument("--compare", action="store_true", help="time and memory of a step")
    both.add_argument("--sizes", type=sizes, nargs="+", default=SIZES, metavar="NxM", help="batches, target batches (0: none)")
    both.add_argument("--seconds", type=float, default=3.0, help="for each comparison (%(default)s)")
    both.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)  # what --compare starts
    parser.add_argument("--dtype", dest="dtype_name", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads(), help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="all numbers, as JSON")
    args = parser.parse_args(words)
    args.dtype, args.terms = getattr(torch, args.dtype_name), args.terms.split(",")
    args.recipe = Recipe(args.epochs, args.batch, args.target_batch, args.learning_rate)
    for term in args.terms:
        if term not in WEIGHTS:
            parser.error(f"--terms: {term!r} is none of {', '.join(WEIGHTS)}")
    if min(args.batch, args.target_batch) < 2 and not args.memory_of:
        parser.error("--batch and --target-batch: a discrepancy takes at least two rows of each")
    if any((args.images, args.labels, args.texts, args.target)) and not all((args.images, args.labels, args.texts)):
        parser.error("features of your own are at least --images, --labels and --texts")
    if args.target_labels and not args.target:
        parser.error("--target-labels needs --target")
    return args


def main(words: Optional[list[str]] = None) -> int:
    args = parse(words)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(memory_of_step(args)))
        return 0
    try:
        if args.smoke:
            result, table = smoke(), smoke_table
        elif args.compare:
            result, table = compare(args), compare_table
        else:
            result, table = train(args), training_table
    except data.InputError as error:
        print(f"prompt_tuning: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if args.json else table(result))
    return 0 if all(check["agree"] for check in result.get("checks", [])) else 1


if __name__ == "__main__":
    sys.exit(main())
