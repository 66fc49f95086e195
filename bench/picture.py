"""The picture of docs/performance.md: throughput by items to a POST, by the size of events, and by workers."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.measure import Throughput

PICTURE: Final = Path(__file__).parents[1] / "docs" / "throughput.png"
_COLOURS: Final = {"single": "#0969da", "batch": "#bc4c00"}
_LINES: Final = {1: "-", 2: "--"}
_MARKERS: Final = {1: "o", 2: "s"}
_STEADY_ITEMS: Final = 10  # to a POST, where the size varies
_FULL_ITEMS: Final = 40  # to a POST, where the number of workers varies


def draw(points: Sequence[Throughput]) -> None:
    """Draw what was measured. The background is opaque, so that it can be read on a dark page as well."""
    figure = Figure(figsize=(12, 4.4), dpi=150, facecolor="white", layout="constrained")
    by_items, by_size, by_workers = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    by_size.sharey(by_items)  # both logarithmic, and bars are not
    small = min(one.event_bytes for one in points)
    _lines(by_items, (one for one in points if one.event_bytes == small), lambda one: one.items)
    _label(
        by_items,
        f"Events of {small / 1000:.1f} KB, by notifications in a POST",
        "notifications in a POST",
        sorted({one.items for one in points}),
    )
    _lines(by_size, (one for one in points if one.items == _STEADY_ITEMS), lambda one: one.event_bytes / 1000)
    sizes = sorted({one.event_bytes / 1000 for one in points})
    _label(by_size, f"{_STEADY_ITEMS} in a POST, by the size of an event", "size of an event's data (KB)", sizes)
    _bars(by_workers, [one for one in points if one.event_bytes == small and one.items == _FULL_ITEMS])
    by_items.set_ylabel("notifications a second, POST to event")
    by_items.set_yscale("log")
    by_items.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    by_items.yaxis.set_minor_formatter(NullFormatter())
    by_size.tick_params(labelleft=False)
    by_size.legend(*by_items.get_legend_handles_labels(), loc="upper right", frameon=False)
    figure.suptitle("Throughput on the emulator, all of it on two shared cores")
    figure.savefig(PICTURE, metadata={"Software": None})


def _lines(axes: Axes, points: Iterable[Throughput], position: Callable[[Throughput], float]) -> None:
    series: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for one in points:
        series.setdefault((one.workers, one.form), []).append((position(one), one.rate))
    for (workers, form), line in series.items():
        across, up = zip(*sorted(line), strict=True)
        axes.plot(
            across,
            up,
            color=_COLOURS[form],
            linestyle=_LINES[workers],
            marker=_MARKERS[workers],
            label=_name(workers, form),
        )


def _bars(axes: Axes, points: Sequence[Throughput]) -> None:
    for place, one in enumerate(points):
        bar = axes.bar(
            place, one.rate, color=_COLOURS[one.form], hatch="//" if one.workers > 1 else "", edgecolor="white"
        )
        axes.bar_label(bar, [f"{one.rate:,.0f}"])
    axes.set_xticks(range(len(points)), [f"{one.workers}\n{one.form}" for one in points])
    axes.set_title(f"Small ones, {_FULL_ITEMS} in a POST")
    axes.set_xlabel("workers, and format of events")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, title: str, across: str, ticks: Sequence[float]) -> None:
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" if tick >= 10 or tick == int(tick) else f"{tick:.1f}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _name(workers: int, form: str) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}, {form} events"
