"""Read the Open Clip Art drawings: the picture, and the caption its author gave it."""

import hashlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

FOLDERS = [
    "animals",
    "buildings",
    "computer/hardware",
    "containers",
    "decorations",
    "education",
    "electronics",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "signs_and_symbols",
    "tools",
    "transportation",
    "unsorted",
]
# Playing cards and pictograms are near-duplicates by design; the others are a matter of taste.
SKIPPED = (
    "recreation/games/cards",
    "transportation/aiga-symbols",
    "signs_and_symbols/flags/semaphore",
    "signs_and_symbols/map_symbols",
    "signs_and_symbols/led",
    "people/clothing/pantyhose",
    "people/bodypart",
    "tools/weapons",
)
NOT_A_NAME = frozenset(
    [
        "hash",
        "unsorted",
        "clipart",
        "clip",
        "art",
        "svg",
        "misc",
        "united",
        "nations",
        "member",
        "symbol",
        "sign",
        "icon",
        "icons",
        "architetto",
        "francesco",
        "rollandin",
        "rollandi",
        "rolla",
        "submission",
        "various",
        "cliparts",
        "foodfruits",
        "subnational",
        "sexy",
    ]
)
UNWANTED = re.compile(
    r"sexy|nude|naked|pin-?up|logo|linked|openoffice|bad_guy|missis+ip+i", re.IGNORECASE
)
PUBLIC_DOMAIN = re.compile(r'cc:license\s+rdf:resource="[^"]*public ?domain"', re.IGNORECASE)
COMMON_TITLE = 4  # a title on more drawings than this names a collection or its author
PIXEL_CAP = 40_000_000
SIDE = 128
FULL_CAPTION = 3  # words


@dataclass(frozen=True)
class Drawing:
    """One file of the collection, not yet decoded. `name` is its path without the suffix."""

    path: Path
    name: str
    title: str
    keywords: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identifies the file's content, whatever its name."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def read_drawings(root: Path) -> list[Drawing]:
    """Public-domain drawings of the folders above, by name. `root` holds png/ and svg/."""
    drawings = [d for folder in FOLDERS for d in _read_folder(root, folder)]
    titles = Counter(d.title for d in drawings)
    for_want_of_a_title = {t for t, n in titles.items() if n > COMMON_TITLE or not t}
    return [
        replace(d, title=_clean(d.path.stem)) if d.title in for_want_of_a_title else d
        for d in sorted(drawings, key=lambda d: d.name)
    ]


def _read_folder(root: Path, folder: str) -> Iterator[Drawing]:
    for path in (root / "png" / folder).rglob("*.png"):
        name = path.relative_to(root / "png").with_suffix("").as_posix()
        rdf = (root / "svg" / f"{name}.svg").read_text("utf-8", "replace")
        title = re.search(r"<dc:title>(.*?)</dc:title>", rdf, re.DOTALL)
        words = re.findall(r"<rdf:li>(.*?)</rdf:li>", rdf, re.DOTALL)
        unwanted = UNWANTED.search(" ".join([name, title[1] if title else "", *words]))
        if PUBLIC_DOMAIN.search(rdf) and not unwanted and not name.startswith(SKIPPED):
            keywords = tuple(filter(None, map(_clean, words)))
            yield Drawing(path, name, _clean(title[1]) if title else "", keywords)


def _clean(text: str) -> str:
    """Plain lower-case words: "Clipart by N. B. - elefante_01" becomes "elefante"."""
    text = re.sub(
        r"^clipart by [^-]*-", "", html.unescape(html.unescape(text)).strip(), flags=re.IGNORECASE
    )
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z]+(?:'s)?", ascii_text)
    return " ".join(w for w in words if w not in NOT_A_NAME and 2 <= len(w) <= 14)


def captions(drawing: Drawing) -> Iterator[str]:
    """Captions for one drawing, the preferred first: its title, then with its keywords."""
    named = [drawing.title] if drawing.title else []
    parts = named + [k for k in drawing.keywords if k not in drawing.title.split()]
    for count in range(1, len(parts) + 1):
        caption = ", ".join(dict.fromkeys(parts[:count]))
        if len(caption.split()) >= FULL_CAPTION or count == len(parts):
            yield " ".join(caption.split()[:8]).rstrip(",")


def render(drawing: Drawing) -> Image.Image | None:
    """On white, margins cut, in the middle of a SIDE x SIDE square; None if it cannot be used."""
    with Image.open(drawing.path) as file:
        if file.width * file.height > PIXEL_CAP:
            return None
        rgba = file.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    picture = Image.alpha_composite(white, rgba).convert("RGB")
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    if box is None:
        return None
    cut = picture.crop(box)
    return None if max(cut.size) > 2 * min(cut.size) else _on_square(cut)


def _on_square(picture: Image.Image) -> Image.Image:
    scale = (SIDE - 8) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(
        picture.resize(size, Image.Resampling.LANCZOS),
        ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2),
    )
    return square


def is_colourful(thumbnail: npt.NDArray[np.float32]) -> bool:
    """Neither gray nor mostly blank. `thumbnail` is (side, side, 3) RGB on [0, 1]."""
    chroma = thumbnail.max(axis=-1) - thumbnail.min(axis=-1)
    inked = (thumbnail.min(axis=-1) < 0.9).mean()
    return bool(chroma.mean() > 0.05 and inked > 0.2)
