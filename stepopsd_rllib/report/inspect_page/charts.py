"""Small line charts and interval plots as inline SVG, which need no script and print sharply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart with any colour vision; dashes tell the ninth from the first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b6b6b", "#000000")
DASHES = ("", "5 3", "1.5 2.5")
WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 26, 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        x: Positions, ascending.
        y: Values; nan leaves a gap.
        low: Low ends of a band, none for no band.
        high: High ends of the band.
        style: Number of colour and dash, the same for all lines of a trial.
        label: What the pointer reads on it.
        is_faint: For raw values behind a smoothed line.
        has_dots: Whether every value is marked.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: int = 0
    label: str = ""
    is_faint: bool = False
    has_dots: bool = False


def share(value: float, digits: int = 3) -> str:
    """A share as per cent."""
    return f"{100 * value:.{digits}g}%"


def plain(value: float, digits: int = 3) -> str:
    """A number with the digits that an axis needs."""
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


Writer = Callable[..., str]
"""Writes a number, and with more digits where these are asked for."""


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    write: Writer = plain,
    limits: tuple[float, float] | None = None,
    floor: float | None = None,
) -> Markup:
    """A chart of lines over training iterations; it says so where there is nothing to draw."""
    points = [
        (x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)
    ]
    body = [_text(_LEFT - 36, 14, title, "title")]
    if not points:
        body.append(_text(WIDTH / 2, HEIGHT / 2, "not reported", "faint", anchor="middle"))
        return _svg(body, title)
    ends = [v for line in lines for v in (*line.low, *line.high) if math.isfinite(v)]
    low, high = limits or _span([*(y for _, y in points), *ends])
    if limits is None:
        margin = 0.06 * (high - low)
        low, high = (low - margin if floor is None else floor), high + margin
    frame = _Frame(x=_span([x for x, _ in points]), y=(low, high if high > low else low + 1.0))
    body += frame.axes(write)
    body += [part for line in lines for part in _drawn(line, frame, write)]
    return _svg(body, title)


def bars(parts: Sequence[tuple[str, float]], *, width: int = 640) -> Markup:
    """One bar of parts that make up a whole, each with its share when it has room for it."""
    total = sum(value for _, value in parts)
    x, body = 0.0, []
    for i, (name, value) in enumerate(parts):
        size = width * value / total if total else 0.0
        label = f"{name}: {value:,.0f} s, {value / total:.0%}" if total else name
        body.append(
            Markup(
                '<rect x="{:.1f}" y="0" width="{:.1f}" height="22" fill="{}" fill-opacity="0.75">'
                "<title>{}</title></rect>"
            ).format(x, size, COLOURS[i % len(COLOURS)], label)
        )
        x += size
    return Markup(
        '<svg class="bar" viewBox="0 0 {} 22" preserveAspectRatio="none" role="img">{}</svg>'
    ).format(width, Markup("").join(body))


def whiskers(rows: Sequence[tuple[float, float, float, int]], *, width: int = 260) -> Markup:
    """Shares with their intervals, one below the other: (value, low, high, style)."""
    height = 12 * len(rows) + 4
    body = [
        Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}" class="grid"/>').format(
            width * at, height
        )
        for at in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for i, (value, low, high, style) in enumerate(rows):
        if math.isfinite(value):
            body.append(
                Markup(
                    '<g stroke="{c}" fill="{c}"><line x1="{l:.1f}" x2="{h:.1f}" y1="{y}" y2="{y}" '
                    'stroke-width="2" stroke-opacity="0.55"/>'
                    '<circle cx="{v:.1f}" cy="{y}" r="3.5"/></g>'
                ).format(
                    c=COLOURS[style % len(COLOURS)],
                    l=width * low,
                    h=width * high,
                    v=width * value,
                    y=12 * i + 8,
                )
            )
    return Markup(
        '<svg class="whisker" viewBox="-5 0 {} {}" width="{}" role="img">{}</svg>'
    ).format(width + 10, height, width, Markup("").join(body))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT),
            HEIGHT
            - _BOTTOM
            - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - _TOP - _BOTTOM),
        )

    def axes(self, write: Writer) -> list[Markup]:
        parts: list[Markup] = []
        ticks = _ticks(self.y)
        for value, label in zip(ticks, _labels(ticks, write), strict=True):
            _, y = self.at(self.x[0], value)
            parts.append(
                Markup('<line x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>').format(
                    _LEFT, WIDTH - _RIGHT, y=y
                )
            )
            parts.append(_text(_LEFT - 5, y + 3, label, "tick", anchor="end"))
        for value in _ticks(self.x, integer=True):
            x, _ = self.at(value, self.y[0])
            parts.append(_text(x, HEIGHT - 8, plain(value), "tick", anchor="middle"))
        return parts


def _labels(ticks: Sequence[float], write: Writer) -> list[str]:
    """The ticks as written, with so many digits that no two are alike."""
    written = ([write(value, digits) for value in ticks] for digits in range(3, 9))
    return next(
        (labels for labels in written if len(set(labels)) == len(labels)), [""] * len(ticks)
    )


def _drawn(line: Line, frame: _Frame, write: Writer) -> list[Markup]:
    colour = COLOURS[line.style % len(COLOURS)]
    points = [frame.at(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    parts: list[Markup] = []
    if line.low:
        upper = [frame.at(x, y) for x, y in zip(line.x, line.high, strict=True) if y == y]
        lower = [frame.at(x, y) for x, y in zip(line.x, line.low, strict=True) if y == y]
        parts.append(
            Markup('<polygon points="{}" fill="{}" fill-opacity="0.15"/>').format(
                _points([*upper, *lower[::-1]]), colour
            )
        )
        if len(points) == 1:  # one evaluation: the band would have no width
            parts.append(
                Markup(
                    '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}" stroke="{3}" '
                    'stroke-width="2" stroke-opacity="0.4"/>'
                ).format(points[0][0], upper[0][1], lower[0][1], colour)
            )
    parts.append(
        Markup(
            '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" stroke-opacity="{}" '
            'stroke-dasharray="{}"><title>{}</title></polyline>'
        ).format(
            _points(points),
            colour,
            0.9 if line.is_faint else 1.9,
            0.35 if line.is_faint else 1,
            DASHES[line.style // len(COLOURS) % len(DASHES)],
            line.label,
        )
    )
    if line.has_dots or len(points) == 1:
        parts += [
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"><title>{}</title></circle>'
            ).format(*frame.at(x, y), colour, f"{line.label} {plain(x)}: {write(y)}".strip())
            for x, y in zip(line.x, line.y, strict=True)
            if math.isfinite(y)
        ]
    return parts


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if math.isclose(low, high, rel_tol=1e-6, abs_tol=1e-12):  # smoothing leaves rounding errors
        margin = 0.1 * abs(high) or 0.5
        return low - margin, high + margin
    return low, high


def _ticks(span: tuple[float, float], *, integer: bool = False) -> list[float]:
    found = MaxNLocator(nbins=4, integer=integer).tick_values(*span)
    slack = 1e-9 * (span[1] - span[0])
    return [float(v) for v in found if span[0] - slack <= v <= span[1] + slack]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, kind, anchor, text
    )


def _svg(body: Sequence[Markup], title: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, escape(title), Markup("").join(body))
