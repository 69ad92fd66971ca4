"""The figures, read off the facts: the same PNG bytes for the same facts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.bins import bin_labels
from pipeline.report.canvas import Theme, make_axes, png_bytes, themed
from pipeline.report.erasure import NO_ATTACK
from pipeline.report.facts import Arm, Facts, Rate, Series

_MARKERS = "osD^vP"
_GOLDEN = 0.618034
_KINDS = {"control": "seen once", "target": "duplicated,\nnot flagged", "flagged": "flagged"}
_ARM_NAMES = {
    "trained": "erased,\nsame captions",
    "held_out": "erased,\nother captions",
    "kept": "memorized,\nnot erased",
    "control": "seen once",
    "empty": "no caption",
}


def draw_all(facts: Facts, theme: Theme) -> dict[str, bytes]:
    """PNG bytes by name, for those figures that there are facts for."""
    makers: dict[str, tuple[bool, Callable[[Facts, Theme], Figure]]] = {
        "extraction_by_copies": (bool(facts.curve), _extraction_by_copies),
        "erasure_by_arm": (_verified(facts), _erasure_by_arm),
        "noise_gap": (bool(facts.noise_gaps), _noise_gap),
        "group_sizes": (bool(facts.duplicates and facts.duplicates.groups), _group_sizes),
    }
    with themed(theme):
        return {
            name: png_bytes(make(facts, theme)) for name, (wanted, make) in makers.items() if wanted
        }


def _extraction_by_copies(facts: Facts, theme: Theme) -> Figure:
    labels = bin_labels({p.copies for series in facts.curve for p in series.points})
    place = {label: x for x, label in enumerate(labels)}
    figure, axes = make_axes(theme, height=4.1)
    for number, series in enumerate(facts.curve):
        colour, offset = (
            _colour(series, number, theme),
            0.09 * (number - (len(facts.curve) - 1) / 2),
        )
        xs = [place[point.copies] + offset for point in series.points]
        rates = [point.drawings for point in series.points]
        dashed = series.name == "truth"
        _interval_line(axes, xs, rates, colour, _MARKERS[number % 6], _series_name(series), dashed)
        if number == 0:
            _value_labels(axes, xs, rates, theme)
    first = {point.copies: point for point in facts.curve[0].points}
    ticks = [_tick(label, first) for label in labels]
    axes.set_xticks(range(len(labels)), ticks)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xlabel("copies of the picture in the training set")
    _rate_axis(axes, "share of drawings that show it")
    figure.legend(loc="outside upper left", frameon=False, ncols=2 if len(facts.curve) > 2 else 3)
    return figure


def _erasure_by_arm(facts: Facts, theme: Theme) -> Figure:
    methods = [m for m in (facts.erasure.methods if facts.erasure else ()) if m.arms]
    arms = {m.name: {a.arm: a for a in m.arms if a.attack == NO_ATTACK} for m in methods}
    first = arms[methods[0].name]
    before = {name: arm.before for name, arm in first.items()}
    series = [("before", before)] + [
        (f"after {method}", {name: arm.after for name, arm in own.items()})
        for method, own in arms.items()
    ]
    figure, axes = make_axes(theme, height=3.7)
    width = 0.8 / len(series)
    for number, (label, rates) in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * width
        known = [(x + shift, rates[name]) for x, name in enumerate(first) if name in rates]
        xs, values = [x for x, _ in known], [rate for _, rate in known]
        colour = theme.series[number % len(theme.series)]
        _bars(axes, xs, values, width * 0.86, colour, label, theme)
    axes.set_xticks(range(len(first)), [_arm_tick(arm) for arm in first.values()])
    _rate_axis(axes, "drawings that show the picture")
    figure.legend(loc="outside upper left", frameon=False, ncols=len(series))
    return figure


def _noise_gap(facts: Facts, theme: Theme) -> Figure:
    found = {kind: [g.noise_gap for g in facts.noise_gaps if g.kind == kind] for kind in _KINDS}
    kinds = [kind for kind in _KINDS if found[kind]]
    figure, axes = make_axes(theme, height=0.75 + 0.72 * len(kinds), grid="x")
    for row, kind in enumerate(kinds):
        values = np.sort(found[kind])
        steps = np.arange(len(values)) * _GOLDEN % 1  # an even spread, the same every time
        colour = theme.series[list(_KINDS).index(kind)]
        heights = row + 0.5 * (steps - 0.5)
        axes.scatter(values, heights, s=16, color=colour, alpha=0.75, linewidths=0)
        middle = float(np.median(values))
        axes.plot([middle, middle], [row - 0.3, row + 0.3], color=theme.ink, linewidth=1.6)
        axes.text(middle, row + 0.38, f"median {middle:.3g}", ha="center", fontsize=8)
    axes.set_yticks(range(len(kinds)), [f"{_KINDS[k]}\nn = {len(found[k])}" for k in kinds])
    axes.set_ylim(-0.6, len(kinds) - 0.25)
    axes.set_xlabel("noise gap at the first sampling step: |noise with the caption - without it|")
    return figure


def _group_sizes(facts: Facts, theme: Theme) -> Figure:
    sizes = facts.duplicates.sizes if facts.duplicates else ()
    figure, axes = make_axes(theme, height=2.3)
    counts = [count for _, count in sizes]
    bars = axes.bar(range(len(sizes)), counts, width=0.72, color=theme.series[0])
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2, color=theme.ink)
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(counts) * 2.2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_xticks(range(len(sizes)), [label for label, _ in sizes])
    axes.set_xlabel("pictures in the group")
    axes.set_ylabel("groups (log)")
    return figure


def _interval_line(
    axes: Axes,
    xs: Sequence[float],
    rates: Sequence[Rate],
    colour: str,
    marker: str,
    label: str,
    dashed: bool,
) -> None:
    style: dict[str, Any] = {"linestyle": "--" if dashed else "-", "alpha": 0.75 if dashed else 1}
    values, errors = _errors(rates)
    axes.errorbar(
        xs, values, errors, color=colour, marker=marker, markersize=5, capsize=2.5,
        linewidth=1.6, elinewidth=1.1, label=label, **style,
    )  # fmt: skip


def _bars(
    axes: Axes,
    xs: Sequence[float],
    rates: Sequence[Rate],
    width: float,
    colour: str,
    label: str,
    theme: Theme,
) -> None:
    values, errors = _errors(rates)
    style = {"ecolor": theme.muted, "capsize": 2, "elinewidth": 1}
    axes.bar(xs, values, width, color=colour, label=label, yerr=errors, error_kw=style)
    for x, rate in zip(xs, rates, strict=True):
        axes.annotate(
            _percent(rate), (x, rate.ci_high), (0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5,
        )  # fmt: skip


def _errors(rates: Sequence[Rate]) -> tuple[list[float], npt.NDArray[np.float64]]:
    values = [rate.rate or 0.0 for rate in rates]
    low = [value - rate.ci_low for value, rate in zip(values, rates, strict=True)]
    high = [rate.ci_high - value for value, rate in zip(values, rates, strict=True)]
    return values, np.maximum([low, high], 0)


def _value_labels(axes: Axes, xs: Sequence[float], rates: Sequence[Rate], theme: Theme) -> None:
    for x, rate in zip(xs, rates, strict=True):
        axes.annotate(
            _percent(rate), (x, rate.ci_high), (0, 3), textcoords="offset points",
            ha="center", va="bottom", fontsize=8, color=theme.ink,
        )  # fmt: skip


def _tick(label: str, first: Mapping[str, Any]) -> str:
    point = first.get(label)
    return f"{label}\n{point.captions} captions\nn = {point.drawings.n:,}" if point else label


def _arm_tick(arm: Arm) -> str:
    return f"{_ARM_NAMES.get(arm.arm, arm.arm)}\nn = {arm.after.n:,}"


def _series_name(series: Series) -> str:
    names = {"audit": "audited model", "truth": "the demo's truth (other seeds, SSIM)"}
    return names.get(series.name, f"after {series.name}")


def _colour(series: Series, number: int, theme: Theme) -> str:
    return theme.muted if series.name == "truth" else theme.series[number % len(theme.series)]


def _percent(rate: Rate) -> str:
    return "" if rate.rate is None else f"{100 * rate.rate:.0f} %"


def _rate_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1.09)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel(label)


def _verified(facts: Facts) -> bool:
    return facts.erasure is not None and any(method.arms for method in facts.erasure.methods)
