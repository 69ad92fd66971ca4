"""The whole report of a run whose captions are hostile."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from synthetic_run import SyntheticRun, pictures_of

from pipeline.io import schemas
from pipeline.io.images import ImageLimits
from pipeline.io.tables import read_rows
from pipeline.report.pictures import Pictures
from pipeline.report.sources import Sources
from pipeline.runner.engine import Options, run_stages
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages import report

PLAIN = ["a cat", "a dog"]
HOSTILE = [
    *PLAIN,
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\u202etxet lortnoc\u2066",
    "[link=http://evil.example]x[/link] [click](javascript:alert(1)) <http://evil.example>",
    "a | table | row\n| next | row |\n---",
    "`code` ```fence``` ${7*7} {{ 7*7 }} {% raw %}",
    "\"><img src=x onerror=alert(1)> ' onload='alert(1)",
    "https://evil.example/www.evil.example </style></title><meta http-equiv=refresh>",
]
COPIES = (1, 1, 4, 16, 16, 16, 16, 16, 16, 64)  # every hostile caption is a finding
ATTRIBUTES = {
    "html": {"lang"}, "meta": {"charset", "http-equiv", "content", "name"}, "a": {"href"},
    "img": {"src", "alt"}, "source": {"media", "srcset"}, "details": {"open"},
}  # fmt: skip
PLAIN_TAGS = {
    "head", "title", "style", "body", "header", "nav", "main", "section", "footer", "article",
    "div", "p", "span", "b", "small", "code", "br", "h1", "h2", "h3", "ul", "li", "figure",
    "figcaption", "picture", "table", "tr", "th", "td", "summary",
}  # fmt: skip
Tags = list[tuple[str, dict[str, str | None]]]


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Tags = []
        self.text = ""
        self.comments: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def write_report(context: Context) -> Path:
    [part] = report.plan(context)
    report.run(part, context)
    return context.run / "report"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = SyntheticRun(
        tmp_path_factory.mktemp("hostile") / "run", HOSTILE, copies=COPIES
    ).everything()
    return write_report(run.context)


def test_all_files_are_there(hostile: Path) -> None:
    names = {path.relative_to(hostile).as_posix() for path in hostile.rglob("*") if path.is_file()}
    figures = ("extraction_by_copies", "erasure_by_arm", "noise_gap", "group_sizes")
    assert names == {
        "index.html", "AUDIT_CARD.md", "summary.json", *(f"figures/{f}.png" for f in figures),
    }  # fmt: skip


def test_no_tag_or_attribute_but_the_templates(hostile: Path) -> None:
    page = read(hostile / "index.html")
    for tag, attributes in page.tags:
        assert tag in PLAIN_TAGS or tag in ATTRIBUTES
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | {"class", "id", "dir"}
    assert not page.comments
    shown = re.sub(r"‹U\+[0-9A-F]{4}›", "", page.text)
    for caption in HOSTILE[len(PLAIN) :]:  # shown, not run
        assert re.sub("[\x00-\x1f\u202a-\u202e\u2066-\u2069]", "", caption) in shown


def test_hostile_captions_change_no_tag(hostile: Path, tmp_path: Path) -> None:
    plain = write_report(SyntheticRun(tmp_path / "run", copies=COPIES).everything().context)

    def shape(page: Path) -> list[tuple[str, list[str], str | None]]:
        tags = read(page).tags
        return [(tag, sorted(values), values.get("class")) for tag, values in tags]

    assert shape(hostile / "index.html") == shape(plain / "index.html")


def test_the_page_loads_nothing(hostile: Path) -> None:
    page = read(hostile / "index.html")
    values = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href") and value
    ]
    assert values
    assert all(re.match(r"#\w+$|data:image/(png|webp);base64,[\w+/=]+$", v) for v in values)
    style = (hostile / "index.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(v["content"] for t, v in page.tags if t == "meta" and "http-equiv" in v)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_links_inside_the_page_have_a_target(hostile: Path) -> None:
    tags = read(hostile / "index.html").tags
    ids = {values["id"] for _, values in tags if "id" in values}
    links = {values["href"] for tag, values in tags if tag == "a"}
    assert links and {str(link)[1:] for link in links} <= ids


def test_control_characters_are_shown(hostile: Path) -> None:
    for name in ("index.html", "AUDIT_CARD.md"):
        text = (hostile / name).read_text(encoding="utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        plain = text.replace("\\", "")  # Markdown escapes the plus sign
        assert plain.count("txet lortnoc") == plain.count("‹U+202E›txet lortnoc") > 0


def test_the_card_has_a_head_and_no_markup_of_captions(hostile: Path) -> None:
    text = (hostile / "AUDIT_CARD.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["captions_audited"] == len(COPIES)
    assert values["erasure"]["esd-gt"] == {"verdict": "suppressed", "damaged": True}
    assert "<" not in body and "](" not in body and "://" not in body and "``" not in body
    widths = [
        {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    ]
    assert len(widths) >= 5 and all(len(width) == 1 for width in widths)


def test_every_number_names_its_file(hostile: Path) -> None:
    values = json.loads((hostile / "summary.json").read_text())
    run = hostile.parent
    blocks = [values[name] for name in ("images", "duplicates", "audit", "extracted", "erasure")]
    for block in [*blocks, *values["curve"], *values["detectors"]]:
        assert block["sources"]
        assert all(list(run.glob(source)) for source in block["sources"])
    files = {file["name"]: file for file in values["files"]}
    digest = hashlib.sha256((run / "findings.parquet").read_bytes()).hexdigest()
    assert files["findings.parquet"]["sha256"] == digest
    assert files["findings.parquet"]["rows"] == len(COPIES)


def test_bytes_are_the_same_in_another_folder(hostile: Path, tmp_path: Path) -> None:
    again = write_report(
        SyntheticRun(tmp_path / "elsewhere", HOSTILE, copies=COPIES).everything().context
    )
    for path in sorted(hostile.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(hostile)).read_bytes(), path.name


def test_the_runner_keeps_it_until_a_table_changes(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run", runner__min_free_gb=0)
    run.dataset()

    def go() -> int:
        run_stages([report.STAGE], run.context, Options(), SilentProgress())
        return (run.run / "report/index.html").stat().st_ino

    first = go()
    assert go() == first
    run.audit()
    assert go() != first
    assert "found" in {values.get("id") for _, values in read(run.run / "report/index.html").tags}


def test_redaction_leaves_no_caption_and_no_picture(tmp_path: Path) -> None:
    captions = [f"Confidential{i} person" for i in range(len(COPIES))]
    run = SyntheticRun(tmp_path / "run", captions, copies=COPIES, report__redact=True).everything()
    folder = write_report(run.context)
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"Confidential" not in data and b"onerror" not in data, path.name
    pictures = thumbnails(folder / "index.html")
    assert pictures and all(max(Image.open(p).size) <= 4 for p in pictures)


def test_thumbnails_are_the_pictures_encoded_anew(hostile: Path) -> None:
    pictures = [Image.open(p) for p in thumbnails(hostile / "index.html")]
    assert all(picture.size == (32, 32) and not picture.info for picture in pictures)
    training = pictures_of(len(COPIES))[-1]
    nearest = min(float(np.abs(np.asarray(p, np.float64) - training).mean()) for p in pictures)
    assert nearest == 0


def test_drawings_beyond_the_configured_caps_are_not_decoded(tmp_path: Path) -> None:
    """They may be another generator's; training pictures have the caps that they were read by."""
    run = SyntheticRun(tmp_path / "run")
    run.dataset()
    run.audit()
    drawn = read_rows(run.run / "generations/00000.parquet", schemas.GENERATIONS)
    ids = [row["generation_id"] for row in drawn]
    for cap, shown in ((32 * 32, len(ids)), (32 * 32 - 1, 0)):
        pictures = Pictures(Sources(run.context), None, ImageLimits(max_pixels=cap))
        assert len(pictures.generations(ids)) == shown
        assert pictures.unreadable == len(ids) - shown
    whole = len(thumbnails(write_report(run.context) / "index.html"))
    scan = run.context.config.scan.model_copy(update={"max_pixels": 32 * 32 - 1})
    config = run.context.config.model_copy(update={"scan": scan})
    assert len(thumbnails(write_report(Context(run.run, config)) / "index.html")) < whole


def test_moved_shards_leave_the_numbers(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run").everything()
    before = write_report(run.context)
    values = json.loads((before / "summary.json").read_text())
    shutil.rmtree(run.run / "shards")
    after = write_report(run.context)
    assert json.loads((after / "summary.json").read_text()) == values
    assert "not available" in (after / "index.html").read_text()


@pytest.mark.parametrize("stage", [None, "dataset", "no_training_set"])
def test_a_part_of_a_run_is_reported(tmp_path: Path, stage: str | None) -> None:
    run = SyntheticRun(tmp_path / "run")
    if stage:
        run.dataset()
    if stage == "no_training_set":
        run.audit()
        for name in ("shards", "images", "pairs"):
            shutil.rmtree(run.run / name)
        for name in ("duplicates", "extracted"):
            (run.run / f"{name}.parquet").unlink()
    page = read(write_report(run.context) / "index.html")
    ids = {values.get("id") for _, values in page.tags}
    assert "limits" in ids and "erasure" not in ids
    assert ("duplicates" in ids) == (stage == "dataset")
    assert ("found" in ids) == (stage == "no_training_set")
    assert ("No model was audited" in page.text) == (stage != "no_training_set")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_renders_it_without_complaint(hostile: Path, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on the PATH")
    shot = tmp_path / "page.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        f"--window-size={width},1400", f"--screenshot={shot}", (hostile / "index.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr  # a blocked resource or script would be told there
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[:2] == (1400, width)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200


def thumbnails(page: Path) -> list[Path]:
    """The embedded pictures, figures aside, as files."""
    folder = page.parent / "thumbnails"
    folder.mkdir(exist_ok=True)
    found = []
    uris = [v["src"] for tag, v in read(page).tags if tag == "img" and "plot" not in str(v)]
    for number, uri in enumerate(uri for uri in uris if uri and len(uri) < 10_000):
        path = folder / f"{number}.png"
        path.write_bytes(base64.b64decode(uri.split(",", 1)[1]))
        found.append(path)
    return found
