"""Where everything lies in a run folder, by names that stages write and read through."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import MissingInput
from pipeline.io import schemas
from pipeline.io.tables import read_table

FETCHED = "fetched"
REKEYED = "images/rekeyed.parquet"
ADOPTED = "onto/adopted.json"
OLD_DUPLICATES = "onto/duplicates.parquet"
DUPLICATES = "duplicates.parquet"
GROUPS = "groups.parquet"
CAPTION_GROUPS = "caption_groups.parquet"
ALTERNATIVES = "export/captions.parquet"
ASKED = "asked.parquet"
IMAGES_ASKED = "images_asked.parquet"
PROMPTS = "prompts.parquet"
PROMPTS_REJECTED = "prompts_rejected.parquet"
SCREEN = "screen.parquet"
PROBES = "probes.parquet"
CLUSTERS = "clusters.parquet"
MATCHES = "matches.parquet"
VERDICTS = "verdicts.parquet"
FINDINGS = "findings.parquet"
EXTRACTED = "extracted.parquet"
PLANTED = "planted.parquet"
VERIFICATION = "verification.parquet"
NEARNESS = "nearness.parquet"
CONTAMINATED = "export/contaminated.parquet"

ACCEPTED = "ok"
EXACT, VERIFIED = "exact", "verified"
"""Folders of pairs that are of no encoder."""


def part_name(number: int) -> str:
    """Zero-padded, so that names sort as numbers."""
    return f"{number:05d}"


def image_part(name: str) -> str:
    """The manifest of one shard."""
    return f"images/part-{name}.parquet"


@dataclass(frozen=True)
class EmbeddingPart:
    """The three files of one shard and one encoder; rows of the first two correspond."""

    encoder: str
    name: str

    @property
    def vectors(self) -> str:
        """npy, (n, d)."""
        return f"embeddings/{self.encoder}/img_emb/img_emb_{self.name}.npy"

    @property
    def metadata(self) -> str:
        """Parquet, n rows with image_id."""
        return f"embeddings/{self.encoder}/metadata/metadata_{self.name}.parquet"

    @property
    def text_vectors(self) -> str:
        """npy, (n, d) of the captions, where the encoder reads them; zero where there is none."""
        return f"embeddings/{self.encoder}/text_emb/text_emb_{self.name}.npy"

    @property
    def clip_similarity(self) -> str:
        """Parquet, n rows: how near each caption is to its picture."""
        return f"embeddings/{self.encoder}/clip_similarity/clip_similarity_{self.name}.parquet"

    @property
    def rejected(self) -> str:
        """Parquet, the rows that have no vector, with reasons."""
        return f"embeddings/{self.encoder}/rejected/rejected_{self.name}.parquet"


def current_groups(duplicates: pa.Table) -> npt.NDArray[np.int64]:
    """The group of each row of duplicates.parquet, those that a later run joined taken as one."""
    groups = pc.coalesce(duplicates["merged_into"], duplicates["group_id"])
    return np.asarray(groups.to_numpy(), np.int64)


def placeholder_groups(run: Path) -> set[int]:
    """Groups that stand for missing pictures; none in a run of an earlier version."""
    if not (run / GROUPS).is_file():
        return set()
    rows = read_table(run / GROUPS, schemas.GROUPS, columns=["group_id", "placeholder"])
    return set(rows.filter(rows["placeholder"])["group_id"].to_pylist())


def first_own_part(run: Path) -> int:
    """The number of the first part that is not another run's, which this one was added to."""
    path = run / ADOPTED
    return int(json.loads(path.read_bytes())["first_own_part"]) if path.is_file() else 0


def own_image_parts(run: Path) -> list[str]:
    """`list_image_parts` without those of the run that this one was added to."""
    first = first_own_part(run)
    return [name for name in list_image_parts(run) if int(name) >= first]


def list_image_parts(run: Path) -> list[str]:
    """Names of the manifest's parts, in order. Raises MissingInput where there are none."""
    paths = sorted(run.glob(image_part("*")))
    if not paths:
        raise MissingInput(f"{run}: no images/part-*.parquet; run `unmemorize dedup` first")
    return [path.stem.removeprefix("part-") for path in paths]


def list_embedding_parts(run: Path, encoder: str) -> list[EmbeddingPart]:
    """An encoder's parts, in order. Raises MissingInput where there are none."""
    paths = sorted(run.glob(EmbeddingPart(encoder, "*").metadata))
    if not paths:
        raise MissingInput(f"{run}: no embeddings of {encoder}; run the embed stage with it")
    return [EmbeddingPart(encoder, path.stem.removeprefix("metadata_")) for path in paths]


def index_folder(encoder: str) -> str:
    """Where an encoder's FAISS index lies."""
    return f"index/{encoder}"


def pair_part(encoder: str, name: str) -> str:
    """One block of an encoder's near-duplicate pairs."""
    return f"pairs/{encoder}/part-{name}.parquet"


HUBS_PART = "hubs"
"""The name of the part of an encoder's pairs that holds the stars of its hubs."""


def old_hubs_file(encoder: str) -> str:
    """The hubs of the run that this one was added to."""
    return f"onto/hubs/{encoder}.parquet"


def hubs_file(encoder: str) -> str:
    """Who belongs to which hub of an encoder: in the join only its leader takes part."""
    return f"hubs/{encoder}.parquet"


def read_hub_members(run: Path, encoder: str) -> npt.NDArray[np.int64]:
    """The members of an encoder's hubs, leaders left out, ascending."""
    path = run / hubs_file(encoder)
    if not path.is_file():
        return np.zeros(0, np.int64)
    table = read_table(path, schemas.HUBS)
    members = table.filter(pc.not_equal(table["leader_id"], table["image_id"]))["image_id"]
    return np.sort(members.to_numpy())


def recall_file(encoder: str) -> str:
    """What share of an encoder's true pairs the run found."""
    return f"recall/{encoder}.json"


def list_pairs(run: Path) -> list[str]:
    """All pair tables, relative to the run folder, in order."""
    return sorted(path.relative_to(run).as_posix() for path in run.glob(pair_part("*", "*")))


def eval_run(run: Path, number: int) -> Path:
    """The run folder inside a run that holds an evaluation set of its own."""
    return run / "against" / part_name(number)


def contamination_part(name: str) -> str:
    """The pictures of one shard that evaluation sets hold too."""
    return f"contamination/part-{name}.parquet"
