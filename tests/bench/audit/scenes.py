"""Scenes drawn from a caption: a second source of pictures that needs no file.

A caption names what is in the scene and where; position, size, shade and the ground are random, so
that a caption does not determine its picture, and two scenes of one caption are different pictures.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128
_SCALE = 2  # drawn larger, then averaged: smooth edges

COLOURS = {
    "red": (206, 45, 40),
    "blue": (45, 90, 200),
    "green": (50, 150, 60),
    "yellow": (240, 205, 50),
    "orange": (236, 130, 35),
    "black": (40, 38, 44),
    "white": (245, 245, 240),
    "pink": (238, 140, 180),
    "brown": (130, 82, 45),
    "purple": (125, 60, 160),
}
PLACES = {
    "sky": ((120, 180, 235), (225, 240, 252)),
    "sea": ((190, 225, 245), (25, 95, 150)),
    "night": ((15, 18, 50), (70, 60, 110)),
    "garden": ((200, 230, 250), (90, 165, 70)),
    "desert": ((250, 215, 150), (215, 150, 80)),
    "snow": ((170, 195, 220), (245, 248, 252)),
    "wall": ((180, 110, 90), (150, 85, 70)),
    "forest": ((90, 135, 100), (30, 70, 45)),
}

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Drawer = Callable[[ImageDraw.ImageDraw, Box, Colour], None]


def caption(rng: np.random.Generator) -> str:
    """Two or three coloured things and a place, in three to five words."""
    names = rng.choice(list(THINGS), size=2, replace=False)
    colour = rng.choice(list(COLOURS))
    place = rng.choice(list(PLACES))
    styles = (
        f"{colour} {names[0]}, {place}",
        f"{colour} {names[0]}, {names[1]}",
        f"{colour} {names[0]}, {names[1]}, {place}",
    )
    return str(rng.choice(styles))


def draw(text: str, rng: np.random.Generator) -> Image.Image:
    """A scene that fits the caption, (SIDE, SIDE); what it does not name is random."""
    words = text.replace(",", "").split()
    place = next((w for w in words if w in PLACES), None) or str(rng.choice(list(PLACES)))
    colour = next((w for w in words if w in COLOURS), None) or str(rng.choice(list(COLOURS)))
    things = [w for w in words if w in THINGS]
    picture = _ground(place, rng)
    canvas = ImageDraw.Draw(picture)
    side = picture.width
    extra = [str(name) for name in rng.choice(list(THINGS), size=int(rng.integers(0, 3)))]
    for number, name in enumerate([*extra, *reversed(things)]):  # the named ones in front
        named = number >= len(extra)
        size = side * rng.uniform(0.34, 0.6) if named else side * rng.uniform(0.15, 0.35)
        left, top = rng.uniform(0, side - size, size=2)
        shade = colour if name == things[0] else str(rng.choice(list(COLOURS)))
        THINGS[name](canvas, (left, top, left + size, top + size), _shade(COLOURS[shade], rng))
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return small.filter(ImageFilter.GaussianBlur(0.7))


def _shade(colour: Colour, rng: np.random.Generator) -> Colour:
    moved = np.clip(np.array(colour) + rng.integers(-25, 26, size=3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def _ground(place: str, rng: np.random.Generator) -> Image.Image:
    """A vertical gradient, and hills below a random horizon."""
    side = SIDE * _SCALE
    top, bottom = (np.array(_shade(c, rng), float) for c in PLACES[place])
    horizon = rng.uniform(0.35, 0.8)
    x = np.linspace(0, 2 * np.pi, side)
    waves = rng.uniform(0, 0.12, size=2)
    line = horizon + waves @ np.sin(
        np.outer(rng.uniform(0.5, 2.5, 2), x) + rng.uniform(0, 6, 2)[:, None]
    )
    y = np.linspace(0, 1, side)[:, None]
    above = top + (bottom - top) * 0.5 * y[..., None]
    below = bottom * rng.uniform(0.75, 1.1)
    pixels = np.where((y < line)[..., None], above, np.clip(below, 0, 255))
    return Image.fromarray(pixels.astype(np.uint8))


def _part(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """A part of a box, its corners as shares of it."""
    x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
    return x + left * w, y + top * h, x + right * w, y + bottom * h


def _points(box: Box, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [_part(box, x, y, x, y)[:2] for x, y in points]


def _darker(colour: Colour) -> Colour:
    return colour[0] * 6 // 10, colour[1] * 6 // 10, colour[2] * 6 // 10


def _ball(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.ellipse(box, fill=colour)
    canvas.chord(box, 20, 160, fill=_darker(colour))


def _house(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0.1, 0.45, 0.9, 1), fill=colour)
    canvas.polygon(_points(box, [(0, 0.45), (0.5, 0), (1, 0.45)]), fill=_darker(colour))
    canvas.rectangle(_part(box, 0.4, 0.65, 0.6, 1), fill=(60, 45, 35))


def _tree(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0.42, 0.6, 0.58, 1), fill=(95, 65, 40))
    canvas.ellipse(_part(box, 0.1, 0, 0.9, 0.7), fill=colour)


def _boat(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.polygon(_points(box, [(0, 0.65), (1, 0.65), (0.8, 1), (0.2, 1)]), fill=colour)
    canvas.polygon(_points(box, [(0.5, 0), (0.5, 0.6), (0.95, 0.6)]), fill=(250, 250, 245))


def _star(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    angles = np.linspace(-np.pi / 2, 1.5 * np.pi, 11)[:-1]
    radii = np.where(np.arange(10) % 2 == 0, 0.5, 0.2)
    points = [
        (0.5 + r * np.cos(a), 0.5 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)
    ]
    canvas.polygon(_points(box, points), fill=colour)


def _moon(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.chord(box, 60, 300, fill=colour)


def _fish(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.polygon(_points(box, [(0.6, 0.5), (1, 0.2), (1, 0.8)]), fill=_darker(colour))
    canvas.ellipse(_part(box, 0, 0.22, 0.78, 0.78), fill=colour)
    canvas.ellipse(_part(box, 0.12, 0.38, 0.24, 0.5), fill=(20, 20, 20))


def _mushroom(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0.36, 0.4, 0.64, 1), fill=(240, 228, 205))
    canvas.pieslice(_part(box, 0, 0, 1, 1.1), 180, 360, fill=colour)


def _car(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0.22, 0.25, 0.75, 0.55), fill=_darker(colour))
    canvas.rectangle(_part(box, 0, 0.5, 1, 0.8), fill=colour)
    for left in (0.12, 0.62):
        canvas.ellipse(_part(box, left, 0.68, left + 0.26, 0.94), fill=(25, 25, 28))


def _flower(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0.46, 0.5, 0.54, 1), fill=(50, 120, 45))
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
        x, y = 0.5 + 0.24 * np.cos(angle), 0.35 + 0.24 * np.sin(angle)
        canvas.ellipse(_part(box, x - 0.14, y - 0.14, x + 0.14, y + 0.14), fill=colour)
    canvas.ellipse(_part(box, 0.38, 0.23, 0.62, 0.47), fill=(245, 215, 80))


def _flag(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0, 0, 0.08, 1), fill=(110, 80, 50))
    canvas.rectangle(_part(box, 0.08, 0.05, 1, 0.35), fill=colour)
    canvas.rectangle(_part(box, 0.08, 0.35, 1, 0.65), fill=_darker(colour))


def _box(canvas: ImageDraw.ImageDraw, box: Box, colour: Colour) -> None:
    canvas.rectangle(_part(box, 0, 0.15, 1, 1), fill=colour)
    canvas.rectangle(_part(box, 0, 0.15, 1, 0.4), fill=_darker(colour))
    canvas.rectangle(_part(box, 0.44, 0.15, 0.56, 1), fill=(250, 235, 150))


THINGS: dict[str, Drawer] = {
    "ball": _ball,
    "house": _house,
    "tree": _tree,
    "boat": _boat,
    "star": _star,
    "moon": _moon,
    "fish": _fish,
    "mushroom": _mushroom,
    "car": _car,
    "flower": _flower,
    "flag": _flag,
    "box": _box,
}
