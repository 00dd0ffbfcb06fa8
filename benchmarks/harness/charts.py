"""Charts as SVG text: bars, lines and stacked shares, in a light and a dark theme. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH = 860
LEFT, TOP, GAP, LEGEND = 70, 60, 45, 230
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a variant; ``series`` are told apart also by those who see few colours."""

    name: str
    ground: str
    ink: str
    faint: str
    grid: str
    accent: str
    other: str
    limit: str
    series: tuple[str, ...]


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1f2328",
    "#59636e",
    "#d8dee4",
    "#0a66c2",
    "#9aa4af",
    "#c9a227",
    ("#0a66c2", "#d1590e", "#1a7f37", "#8250df", "#bf3989", "#6e7781", "#c9a227"),
)
DARK = Theme(
    "dark",
    "#0d1117",
    "#e6edf3",
    "#9198a1",
    "#2b3139",
    "#4a9eff",
    "#5f6873",
    "#d4b13d",
    ("#4a9eff", "#f0883e", "#3fb950", "#ab7df8", "#f778ba", "#8b949e", "#d4b13d"),
)
THEMES = (LIGHT, DARK)


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar with a whisker from ``least`` to ``most``; ``colour`` is a field of the theme."""

    title: str
    value: float
    least: float
    most: float
    note: str
    colour: str


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline; one without a title is not in the legend."""

    title: str
    points: tuple[tuple[float, float], ...]
    colour: int
    dashed: bool = False


@dataclass(slots=True)
class Canvas:
    """Gathers SVG elements; coordinates are pixels from the top left."""

    theme: Theme
    height: float
    title: str
    _parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        anchor: str = "start",
        faint: bool = False,
        bold: bool = False,
    ) -> None:
        """A line of text on the baseline ``y``."""
        fill = self.theme.faint if faint else self.theme.ink
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"{weight}>'
            f"{escape(text)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{fill}"/>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], stroke: str, *, width: float = 1, dashed: bool = False
    ) -> None:
        """A polyline."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"'
            f' stroke-linejoin="round"{dash}/>'
        )

    def dot(self, x: float, y: float, fill: str) -> None:
        """A point of a line."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{fill}"/>')

    def svg(self) -> str:
        """The document."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:.0f}" font-family="{FONT}"'
            f' role="img">\n<title>{escape(self.title)}</title>\n'
            f'<rect width="{WIDTH}" height="{self.height:.0f}" fill="{self.theme.ground}"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside stick to the ends."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values between the ends: 1, 2, 5 and their tens; decades only on a long logarithmic axis."""
        if self.logarithmic:
            steps = (1.0,) if self.high / self.low > 1000 else (1.0, 2.0, 5.0)
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [step * 10.0**decade for decade in decades for step in steps]
        else:
            step = nice_step((self.high - self.low) / 5)
            values = [step * index for index in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]
        return [value for value in values if self.low <= value * 1.000001 and value <= self.high * 1.000001]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999999)


def short(value: float) -> str:
    """A number as it stands at an axis."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1000:g} k" if value >= 10_000 else f"{value:g}"


def bars(theme: Theme, title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars, one below the other, with what each says at its end."""
    top, step, left, right = 56, 30, 270, 170
    canvas = Canvas(theme, top + step * len(rows) + 30, title)
    canvas.text(20, 30, title, size=16, bold=True)
    axis = Axis(0, max(row.most for row in rows) * 1.02, left, WIDTH - right)
    bottom = top + step * len(rows)
    for value in axis.ticks():
        canvas.line([(axis.at(value), top - 8), (axis.at(value), bottom)], theme.grid)
        canvas.text(axis.at(value), bottom + 18, short(value), size=12, anchor="middle", faint=True)
    for index, row in enumerate(rows):
        y = top + step * index
        canvas.text(left - 10, y + 15, row.title, anchor="end", bold=row.colour == "accent")
        canvas.box(left, y, axis.at(row.value) - left, 20, getattr(theme, row.colour))
        canvas.line([(axis.at(row.least), y + 10), (axis.at(row.most), y + 10)], theme.ink, width=1.5)
        canvas.text(axis.at(row.most) + 8, y + 15, row.note, size=12, faint=True)
    return canvas.svg()


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one vertical axis, which has a title and is ``height`` pixels high."""

    series: tuple[Line, ...]
    y_title: str
    height: float = 290
    logarithmic: bool = True


def lines(
    theme: Theme,
    title: str,
    panels: Sequence[Panel],
    *,
    x_title: str,
    x_labels: Sequence[str] = (),
    dots: bool = True,
) -> str:
    """Panels above each other over one axis; ``x_labels`` name the positions 0, 1, ... where that is not a number."""
    bottoms = [TOP + sum(panel.height for panel in panels[: index + 1]) + GAP * index for index in range(len(panels))]
    canvas = Canvas(theme, bottoms[-1] + 70, title)
    canvas.text(20, 30, title, size=16, bold=True)
    places = [x for panel in panels for one in panel.series for x, _ in one.points]
    across = Axis(min(places), max(min(places) + 1e-9, *places), LEFT, WIDTH - LEGEND)
    for panel, bottom in zip(panels, bottoms, strict=True):
        _panel(canvas, panel, across, bottom, dots=dots)
    marks = [(float(index), label) for index, label in enumerate(x_labels)] or [(v, short(v)) for v in across.ticks()]
    for position, label in marks:
        canvas.text(across.at(position), bottoms[-1] + 20, label, size=12, anchor="middle", faint=True)
    canvas.text((across.start + across.stop) / 2, bottoms[-1] + 44, x_title, size=12, anchor="middle", faint=True)
    return canvas.svg()


def _panel(canvas: Canvas, panel: Panel, across: Axis, bottom: float, *, dots: bool) -> None:
    top = bottom - panel.height
    values = [y for one in panel.series for _, y in one.points]
    up = _vertical(values, bottom, top, logarithmic=panel.logarithmic)
    for value in up.ticks():
        canvas.line([(across.start, up.at(value)), (across.stop, up.at(value))], canvas.theme.grid)
        canvas.text(LEFT - 8, up.at(value) + 4, short(value), size=12, anchor="end", faint=True)
    canvas.text(LEFT - 50, top - 10, panel.y_title, size=12, faint=True)
    for one in panel.series:
        _draw(canvas, one, [(across.at(x), up.at(y)) for x, y in one.points], dots=dots)
    for index, one in enumerate(one for one in panel.series if one.title):
        y, colour = top + 18 * index, canvas.theme.series[one.colour % len(canvas.theme.series)]
        canvas.line([(across.stop + 20, y), (across.stop + 44, y)], colour, width=2, dashed=one.dashed)
        canvas.text(across.stop + 50, y + 4, one.title, size=12)


def _draw(canvas: Canvas, one: Line, placed: list[tuple[float, float]], *, dots: bool) -> None:
    colour = canvas.theme.series[one.colour % len(canvas.theme.series)]
    canvas.line(placed, colour, width=2 if dots else 1.5, dashed=one.dashed)
    for x, y in placed if dots else []:
        canvas.dot(x, y, colour)


def stacks(
    theme: Theme, title: str, labels: Sequence[str], parts: dict[str, list[float]], notes: tuple[str, Sequence[str]]
) -> str:
    """Columns of shares that add up to one, with a note above each; the notes have a title."""
    height, left, top, bottom, legend = 380, 90, 90, 340, 150
    canvas = Canvas(theme, height, title)
    canvas.text(20, 30, title, size=16, bold=True)
    up = Axis(0, 1, bottom, top)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line([(left, up.at(value)), (WIDTH - legend, up.at(value))], theme.grid)
        canvas.text(left - 8, up.at(value) + 4, f"{100 * value:.0f} %", size=12, anchor="end", faint=True)
    canvas.text(left - 8, top - 14, notes[0], size=12, anchor="end", faint=True)
    step = (WIDTH - legend - left) / len(labels)
    for column, (label, note) in enumerate(zip(labels, notes[1], strict=True)):
        x, below = left + step * (column + 0.2), 0.0
        for index, shares in enumerate(parts.values()):
            upper = below + shares[column]
            canvas.box(
                x, up.at(upper), step * 0.6, up.at(below) - up.at(upper), theme.series[index % len(theme.series)]
            )
            below = upper
        canvas.text(x + step * 0.3, bottom + 20, label, size=12, anchor="middle", faint=True)
        canvas.text(x + step * 0.3, top - 14, note, size=12, anchor="middle")
    for index, name in enumerate(parts):
        y = top + 20 * index
        canvas.box(WIDTH - legend + 20, y - 10, 14, 14, theme.series[index % len(theme.series)])
        canvas.text(WIDTH - legend + 42, y + 2, name, size=12)
    return canvas.svg()


def _vertical(values: Sequence[float], bottom: float, top: float, *, logarithmic: bool) -> Axis:
    if not logarithmic:
        return Axis(0, max(values) * 1.05 or 1.0, bottom, top)
    known = [value for value in values if value > 0] or [1.0]
    low = min(known) * 0.8
    return Axis(low, max(max(known) * 1.2, low * 10), bottom, top, logarithmic=True)
