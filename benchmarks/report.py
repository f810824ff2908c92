"""The rows as a table and as Pareto plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .measures import lpips_model

#: What has to be said wherever figures of the bundled models are shown.
SCOPE = (
    "Distances to the uncached clip of the same prompt and seed. The bundled models are tiny and "
    "trained on synthetic clips: the figures say nothing about real models."
)
#: Columns after the method: title, key, format.
COLUMNS = (
    ("budget", "budget", "{:6.2f}"),
    ("cost", "cost", "{:6.3f}"),
    ("PSNR", "psnr_mean", "{:6.2f}"),
    ("worst", "psnr_worst", "{:6.2f}"),
    ("SSIM", "ssim_mean", "{:7.4f}"),
    ("MS-SSIM", "msssim_mean", "{:7.4f}"),
    ("LPIPS", "lpips_mean", "{:7.4f}"),
    ("RMS", "rms_final", "{:7.4f}"),
    ("worst", "rms_worst", "{:7.4f}"),
    ("seconds", "seconds", "{:7.2f}"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All rows as text, one block per family and regime, with what has to be said about them."""
    lines = []
    width = max([6, *(len(row["method"]) for row in rows)])
    for (family, regime), group in _groups(rows):
        lines.append(f"\n{family}, {regime}")
        titles = [title.rjust(len(form.format(0))) for title, _, form in COLUMNS]
        lines.append("  ".join(["method".ljust(width), *titles, "setting"]))
        for row in group:
            lines.append("  ".join([row["method"].ljust(width), *_cells(row)]))
    lines += ["", SCOPE]
    if all(row["lpips_mean"] is None for row in rows):
        reason = "no decoded clips" if all(r["ssim_mean"] is None for r in rows) else None
        lines.append(f"LPIPS was not measured: {reason or lpips_model()[1]}.")
    if any(row["ssim_mean"] is None and row["error"] is None for row in rows):
        lines.append(
            "Without a codec there is no SSIM, and PSNR is that of the latents, with the range of "
            "the uncached latent as its peak."
        )
    return "\n".join(lines)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One Markdown table per family, regime, budget and number of clips, best mean PSNR first."""
    lines = []
    for (family, regime), group in _groups(rows):
        kinds = {(row["budget"], row["samples"]) for row in group if row["budget"] < 1}
        for budget, samples in sorted(kinds, reverse=True):
            rows_ = [r for r in group if (r["budget"], r["samples"]) == (budget, samples)]
            done = sorted((r for r in rows_ if not r["error"]), key=lambda r: -r["psnr_mean"])
            lines += [f"\n### {family}, {regime}, budget {budget:g}, {samples} clips\n"]
            lines += ["| method | cost | PSNR mean | worst | SSIM | MS-SSIM | RMS | seconds |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            for r in done:
                cells = (
                    f"`{r['method']}`",
                    f"{r['cost']:.3f}",
                    f"{r['psnr_mean']:.2f}",
                    f"{r['psnr_worst']:.2f}",
                    *("" if r[k] is None else f"{r[k]:.4f}" for k in ("ssim_mean", "msssim_mean")),
                    f"{r['rms_final']:.4f}",
                    f"{r['seconds']:.1f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
            for r in rows_:
                if r["error"]:
                    why = " ".join(r["error"].split())[:120]
                    lines.append(f"| `{r['method']}` | cannot run: {why} | | | | | | |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """PSNR over cost, a line per method, as ``pareto_<family>_<regime>.png`` in ``folder``.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: in the source tree, pip install -e '.[bench]'"
        ) from error
    files = []
    for (family, regime), group in _groups(rows):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axis = figure.subplots()
        methods = dict.fromkeys(r["method"] for r in group if r["budget"] < 1 and not r["error"])
        for index, method in enumerate(methods):
            points = sorted(
                (r["cost"], r["psnr_mean"]) for r in group if r["method"] == method and r["cost"]
            )
            style = {"marker": "os^Dv"[index % 5], "color": colormaps["tab20"](index % 20)}
            axis.plot(*zip(*points), label=method, lw=1, ms=5, **style)
        axis.set_xlabel("cost: share of the uncached block executions")
        axis.set_ylabel("PSNR against the uncached clip, mean, dB")
        axis.set_title(f"{family}, {regime}")
        axis.grid(alpha=0.3)
        if methods:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        files.append(folder / f"pareto_{family}_{regime}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _groups(rows: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["regime"]), []).append(row)
    return list(groups.items())


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for _, key, form in COLUMNS:
        blank = "-".rjust(len(form.format(0)))
        cells.append(blank if row[key] is None else form.format(row[key]))
    return [*cells, row["setting"] if row["error"] is None else " ".join(row["error"].split())[:90]]
