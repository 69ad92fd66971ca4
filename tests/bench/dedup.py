"""`make bench-dedup`: deduplication beside exact scans, bare libraries and other tools, in one run.

    python -m tests.bench.dedup [--only quality,join] [--photos PLACE] [--options "join=--crops 0"]

PLACE is a folder of pictures that are all different, or of tars of them; without it, the drawings
of Open Clip Art. Each part prints its table, and its figures go to WORK/dedup.json as soon as it is
done, beside those of parts that ran before. A part that fails is said, and the others run.
"""

import argparse
import json
import os
import platform
import shlex
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import clip_retrieval, dedup_clipart, dedup_quality, embed, join
from tests.bench.peers import WORK

Figures = list[dict[str, Any]]
# with what they take: a folder of pictures, the folder for work
PARTS: dict[str, tuple[Callable[[Sequence[str]], Figures], bool, bool]] = {
    "quality": (dedup_quality.main, True, True),
    "clipart": (dedup_clipart.main, False, True),
    "join": (join.main, True, True),
    "embed": (embed.main, True, False),
    "clip-retrieval": (clip_retrieval.main, True, True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if one failed."""
    given = _parse(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    console = Console()
    options = dict(text.partition("=")[::2] for text in given.options)
    path = given.work / "dedup.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    failed = 0
    for name in given.only:
        run, takes_photos, takes_work = PARTS[name]
        words = ["--photos", str(given.photos)] if takes_photos and given.photos else []
        words += ["--work", str(given.work)] if takes_work else []
        words += shlex.split(options.get(name, ""))
        console.rule(name)
        start = time.perf_counter()
        try:
            figures = run(words)
        except (Exception, SystemExit) as error:  # a peer or a set may be missing
            traceback.print_exc()
            console.print(f"{name}: failed: {error}", markup=False)
            failed += 1
            continue
        record[name] = {
            "arguments": words,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "seconds": round(time.perf_counter() - start, 1),
            "figures": figures,
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(path)
    return int(failed > 0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--photos", type=Path, help="a folder of pictures, or of tars of them")
    parser.add_argument("--options", action="append", default=[], metavar="PART=OPTIONS")
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args(arguments)
    given.only = given.only.split(",")
    named = {text.partition("=")[0] for text in given.options}
    if unknown := sorted({*given.only, *named} - set(PARTS)):
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    raise SystemExit(main())
