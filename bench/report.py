"""Makes table.md and fraction.png from results.json (Google Benchmark's output) in the folder given."""

import json
import platform
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def parts(name):
    """mmd/gaussians5/gradient/n:4096/m:4096/d:512/float/threads:1/... -> what is before the sizes, and the sizes."""
    what = name.split("/n:")[0]
    size = {key: int(value) for key, value in re.findall(r"/(n|m|d|threads):(\d+)", name)}
    return what, size, "double" if "/double" in name else "float"


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"


def table(cases):
    lines = [
        "| case | n, m, d | type, threads | time | GFLOP/s | fraction (low - high) | of tiles | of large square |"
        " over the larger of products, exponentials | over both | extra memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        what, size, scalar = parts(case["name"])
        lines.append(
            f"| {what} | {size['n']}, {size['m']}, {size['d']} | {scalar}, {size['threads']} | {duration(case['seconds'])} "
            f"| {case['flops'] / 1e9:.1f} | **{case['fraction']:.2f}** ({case['fraction_low']:.2f} - {case['fraction_high']:.2f}) "
            f"| {case['of_tiles']:.2f} | {case['of_large']:.2f} | {case['of_larger']:.2f} | {duration(case['overhead'])} "
            f"| {case['extra_bytes'] / 1e6:.1f} MB |"
        )
    return lines


def products(cases):
    names, rows = [], {}
    for case in cases:
        _, whose, n, d = case["name"].split("/")[:4]
        names += [whose] if whose not in names else []
        rows.setdefault((int(n[2:]), int(d[2:])), {})[whose] = case["flops"] / 1e9
    lines = ["| tile n, d | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for (n, d), of in rows.items():
        lines.append(f"| {n}, {d} | " + " | ".join(f"{of[name]:.0f}" if name in of else "" for name in names) + " |")
    return lines


def picture(cases, path):
    curves = {}
    for case in cases:
        what, size, scalar = parts(case["name"])
        if what == "mmd/gaussians5/gradient" and scalar == "float" and size["threads"] == 1 and size["n"] == size["m"]:
            curves.setdefault(size["d"], []).append((size["n"], case["fraction"], case["of_large"]))
    if not curves:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    for index, title in ((1, "of the greater of the two product rates"), (2, "of one large square Eigen product")):
        for d, points in sorted(curves.items()):
            points.sort()
            axes[index - 1].plot([p[0] for p in points], [p[index] for p in points], marker="o", label=f"d = {d}")
        axes[index - 1].axhline(1, color="0.6", linewidth=0.8)
        axes[index - 1].set_xscale("log", base=2)
        axes[index - 1].set_ylim(bottom=0)
        axes[index - 1].set_xlabel("n = m")
        axes[index - 1].set_title("fraction " + title, fontsize=10)
    axes[0].legend()
    figure.suptitle("MMD, 5 Gaussians, value and gradient, float, one thread", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True


def main():
    folder = Path(sys.argv[1])
    data = json.loads((folder / "results.json").read_text())
    context, cases = data["context"], [case for case in data["benchmarks"] if not case.get("error_occurred")]
    lines = [
        f"{cpu_name()}, {context['num_cpus']} cores; {context['compiler']}, {context['flags'].strip()}; "
        f"Eigen {context['eigen']}; commit {context['commit']}; {context['date'][:10]}",
        "",
    ]
    others = [case for case in cases if case["name"].startswith("product/")]
    cases = [case for case in cases if not case["name"].startswith("product/")]
    if cases:
        lines += table(cases) + [""]
    if others:
        lines += ["Products of one tile (dots, and both pull-backs), GFLOP/s, one thread:", ""] + products(others) + [""]
    (folder / "table.md").write_text("\n".join(lines))
    print("\n".join(lines))
    drawn = picture(cases, folder / "fraction.png")
    print("written:", *(str(folder / name) for name in ("results.json", "table.md") + (("fraction.png",) if drawn else ())))


main()
