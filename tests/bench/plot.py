"""Draw line charts as SVG, readable on a light and on a dark background. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
"""Margins; the names of the lines are at the right."""

LINE = 16
"""The height of a line of text."""

ON_LIGHT = ("#0072b2", "#c04f00", "#00805c", "#8a6500", "#a04f86", "#24292f")
ON_DARK = ("#56b4e9", "#e69f4a", "#2fc79b", "#e0d04a", "#d98cc0", "#d0d7de")
"""Colours that people with defective colour vision can tell apart, on white and on black."""

DASHES = ("", "6 3", "2 3", "9 3 2 3")


def _style() -> str:
    """Return the style sheet, which follows the light or dark scheme of the reader."""
    return (
        "text { font: 12px sans-serif; fill: #24292f; }\n"
        ".title { font-weight: bold; font-size: 14px; }\n"
        ".grid { stroke: #8c959f; stroke-opacity: 0.35; }\n"
        ".line { fill: none; stroke-width: 2; }\n"
        f"{_colours(ON_LIGHT)}"
        "@media (prefers-color-scheme: dark) {\ntext { fill: #d0d7de; }\n"
        f"{_colours(ON_DARK)}}}\n"
    )


def _colours(colours: Sequence[str]) -> str:
    return "".join(
        f".line.c{number} {{ stroke: {colour}; }}\n"
        f"text.c{number}, circle.c{number} {{ fill: {colour}; }}\n"
        for number, colour in enumerate(colours)
    )


@dataclass(frozen=True)
class Axis:
    """A title, the range of its values, and whether its scale is logarithmic."""

    title: str
    least: float
    most: float
    logarithmic: bool

    @classmethod
    def of(cls, title: str, values: Sequence[float], *, logarithmic: bool) -> "Axis":
        """Return an axis that has room for these values, and ends at round numbers."""
        if logarithmic:
            least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            return cls(title, 10.0**least, 10.0 ** max(most, least + 1), logarithmic=True)
        step = _step(max(values) or 1.0)
        return cls(title, 0.0, math.ceil((max(values) or 1.0) / step) * step, logarithmic=False)

    def share(self, value: float) -> float:
        """Return the place of a value on the axis, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.least) / math.log(self.most / self.least)
        return (value - self.least) / (self.most - self.least)

    def ticks(self) -> list[float]:
        """Return the values that have a line of the grid."""
        if self.logarithmic:
            powers = round(math.log10(self.most / self.least))
            return [self.least * 10.0**power for power in range(powers + 1)]
        step = _step(self.most)
        return [step * number for number in range(round(self.most / step) + 1)]


def _step(most: float) -> float:
    """Return a round distance of at most ten lines of a grid."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= most / 8)


@dataclass(frozen=True)
class Chart:
    """A line chart; its lines have names, and points in the order of x."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Points]
    log_x: bool = True
    log_y: bool = True
    x: Axis = field(init=False)
    y: Axis = field(init=False)

    def __post_init__(self) -> None:
        """Choose the axes."""
        points = [point for line in self.lines.values() for point in line]
        across, up = zip(*points, strict=True)
        set_field = object.__setattr__
        set_field(self, "x", Axis.of(self.x_title, across, logarithmic=self.log_x))
        set_field(self, "y", Axis.of(self.y_title, up, logarithmic=self.log_y))

    def as_svg(self) -> str:
        """Return the SVG document."""
        elements = [*self._titles(), *self._grid(), *self._drawn_lines()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' width="{WIDTH}" height="{HEIGHT}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_style()}</style>\n"
            + "".join(f"{element}\n" for element in elements)
            + "</svg>\n"
        )

    def _across(self, value: float) -> float:
        return LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)

    def _down(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)

    def _titles(self) -> Iterator[str]:
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield _text(LEFT, 20, self.title, ' class="title"')
        yield _text(middle, HEIGHT - 10, self.x.title, ' text-anchor="middle"')
        yield _text(
            0,
            0,
            self.y.title,
            f' transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle"',
        )

    def _grid(self) -> Iterator[str]:
        left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        for value in self.x.ticks():
            at = self._across(value)
            yield _grid_line(at, top, at, bottom)
            yield _text(at, bottom + LINE, f"{value:,.10g}", ' text-anchor="middle"')
        for value in self.y.ticks():
            at = self._down(value)
            yield _grid_line(left, at, right, at)
            yield _text(left - 6, at + 4, f"{value:,.10g}", ' text-anchor="end"')

    def _drawn_lines(self) -> Iterator[str]:
        ends = {name: self._down(points[-1][1]) for name, points in self.lines.items()}
        places = _apart(ends)
        for number, (name, points) in enumerate(self.lines.items()):
            colour, dash = f"c{number % len(ON_LIGHT)}", DASHES[number % len(DASHES)]
            at = [(self._across(across), self._down(up)) for across, up in points]
            path = " ".join(f"{across:.1f},{down:.1f}" for across, down in at)
            yield (f'<polyline class="line {colour}" stroke-dasharray="{dash}" points="{path}"/>')
            if len(at) <= 20:
                for across, down in at:
                    yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" class="{colour}"/>'
            yield _text(WIDTH - RIGHT + 10, places[name] + 4, name, f' class="{colour}"')


def _apart(places: Mapping[str, float]) -> dict[str, float]:
    """Move texts down until none is on another, and all of them up if there is no more room."""
    moved: dict[str, float] = {}
    lowest = -math.inf
    for name in sorted(places, key=lambda name: places[name]):
        lowest = max(places[name], lowest + LINE)
        moved[name] = lowest
    too_low = max(lowest - (HEIGHT - LINE / 2), 0)
    return {name: place - too_low for name, place in moved.items()}


def _text(across: float, down: float, text: str, attributes: str = "") -> str:
    return f'<text x="{across:.1f}" y="{down:.1f}"{attributes}>{escape(text)}</text>'


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
