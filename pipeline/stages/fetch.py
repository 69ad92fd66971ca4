"""fetch: shards on an object store in, copies in the run folder out.

Later stages read the copies alone. A part is one shard with what lies beside it; it is copied again
only where the store says that it has changed, and then not without being asked (`--rebuild`).
"""

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.io.digest import canonical_sha256
from pipeline.io.remote import RemoteFile, fetch, is_remote, list_shards
from pipeline.io.runfolder import FETCHED, part_name
from pipeline.runner.part import Context, Outcome, Part, Stage


def plan(context: Context) -> list[Part]:
    """One part a shard."""
    parts = []
    shards = list_shards([a for a in context.config.dataset.shards if is_remote(a)])
    for number, shard in enumerate(shards):
        files = [[file.url, file.size, file.version] for file in shard.files]
        folder = canonical_sha256(shard.folder)[:12]
        parts.append(Part(part_name(number), (), {"folder": folder, "files": files}))
    return parts


def run(part: Part, context: Context) -> Outcome:
    """Copy one shard."""
    outputs = []
    for file in (RemoteFile(*values) for values in part.params["files"]):
        output = f"{FETCHED}/{part.params['folder']}/{_plain(file)}"
        fetch(file, context.path(output))
        outputs.append(output)
    return Outcome(tuple(outputs), 1, 1)


def _plain(file: RemoteFile) -> str:
    if Path(file.name).name != file.name or "\\" in file.name or file.name.startswith("."):
        raise UsageError(f"{file.url}: not a plain file name")
    return file.name


STAGE = Stage("fetch", 1, (), plan, run)
