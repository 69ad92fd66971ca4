"""The figures as one table: in each cell the value, what it is of, and the 95 % interval."""

from collections.abc import Callable, Sequence

from rich.table import Table

from pipeline.stages.redraw import BASE
from tests.bench.audit.measures import Rate
from tests.bench.erase.measures import Change, Figures
from tests.bench.erase.runs import Cost

WIDTH = 214
NOTES = (
    "fresh, held out: drawings of the targets' captions, trained on or not, that show their "
    "picture, by the audit's rule with fresh seeds; held out only captions that drew it before. "
    "by SSIM: the same drawings of trained captions by the measure of the truth.",
    "attack: attempts of the embedding attack that bring the picture back; above floor: the "
    "difference to {floor} (Newcombe).",
    "others kept: of other memorized pictures, which the eraser did not see, that half of the "
    "drawings showed before, those of which half still do. displaced: drawings of the targets' "
    "captions that show another training picture.",
    "drift: change of drawings of control captions in units of the difference between two seeds; "
    "loss: relative change of the denoising loss on control pictures. Both by resampling captions "
    "or pictures; rates have Wilson's intervals, which take drawings of one caption for "
    "independent and are too narrow where few pictures are erased.",
    "s, passes: wall seconds of `erase` with the start of its process, and passes of one picture "
    "through the UNet, backward ones as one. peak: the whole process, libraries and all.",
)
"""What the columns are, for readers of the table; `floor` is what the attack is compared with."""
_NONE, _UNKNOWN = "none", "-"


def results_table(rows: Sequence[tuple[Figures, Cost | None]], title: str) -> Table:
    """A row a model, a section a number of targets."""
    table = Table(title=title, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(_HEADINGS):
        table.add_column(name, justify="right" if number != 1 else "left")
    for place, (figures, cost) in enumerate(rows):
        following = rows[place + 1][0].targets if place + 1 < len(rows) else None
        table.add_row(*_cells(figures, cost), end_section=following != figures.targets)
    return table


_HEADINGS = (
    "targets",
    "method",
    "fresh",
    "by SSIM",
    "held out",
    "attack",
    "above floor",
    "others kept",
    "displaced",
    "drift",
    "loss",
    "verdict",
    "s a target",
    "passes a target",
    "peak GiB",
)


def _cells(figures: Figures, cost: Cost | None) -> list[str]:
    n = figures.targets
    return [
        str(n),
        figures.method,
        _rate(figures.trained),
        _rate(figures.by_similarity, _UNKNOWN),
        _rate(figures.held_out),
        _rate(figures.attacked, _UNKNOWN),
        _above(figures),
        _rate(figures.kept),
        _rate(figures.displaced),
        _change(figures.drift, _short),
        _change(figures.loss, lambda value: f"{value:+.1%}"),
        _verdict(figures),
        _UNKNOWN if cost is None else f"{cost.seconds / n:,.1f}",
        _UNKNOWN if cost is None else f"{cost.forwards / n:,.0f}",
        _UNKNOWN if cost is None else f"{cost.peak / 2**30:.2f}",
    ]


def _rate(rate: Rate | None, missing: str = _NONE) -> str:
    if rate is None or rate.value is None:
        return missing
    low, high = rate.wilson
    return f"{_short(rate.value)}\n{rate.hits} of {rate.n}\n{_short(low)} to {_short(high)}"


def _above(figures: Figures) -> str:
    if figures.above is None or figures.floor is None or figures.above.interval is None:
        return _UNKNOWN
    low, high = figures.above.interval
    floor = f"floor {figures.floor.hits} of {figures.floor.n}"
    return f"{_short(figures.above.value)}\n{floor}\n{_short(low)} to {_short(high)}"


def _short(value: float) -> str:
    """Three places, without the zero before the point."""
    text = f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
    return ".000" if text == "-.000" else text


def _change(change: Change | None, shown: Callable[[float], str]) -> str:
    if change is None:
        return _UNKNOWN
    lines = [shown(change.value), f"n = {change.n}"]
    if change.interval is not None:
        lines.append(" to ".join(shown(bound) for bound in change.interval))
    return "\n".join(lines)


def _verdict(figures: Figures) -> str:
    if figures.method == BASE:
        return _UNKNOWN
    return f"{figures.verdict},\n{'damaged' if figures.damage else 'not damaged'}"
