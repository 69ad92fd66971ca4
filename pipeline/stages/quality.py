"""Which of two copies is better: the order in which pictures are kept."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def quality_rank(images: pa.Table, quality: str) -> npt.NDArray[np.int64]:
    """Rank (n,), 0 best: by quality, then sha256, then uid, so that row order never decides.

    A size that is not known counts as the smallest.
    """
    columns: list[tuple[str, pa.ChunkedArray]] = []
    if quality == "first":
        columns += [("shard", images["shard"]), ("key", images["key"])]
    elif quality == "bytes":
        columns.append(("worse", pc.negate(pc.fill_null(images["size"], 0))))
    else:
        sides = (pc.fill_null(pc.cast(images[n], pa.int64()), 0) for n in ("width", "height"))
        columns.append(("worse", pc.negate(pc.multiply(*sides))))
    columns += [(name, pc.fill_null(images[name], "")) for name in ("sha256", "uid")]
    columns.append(("image_id", images["image_id"]))
    table = pa.table([column for _, column in columns], names=[name for name, _ in columns])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name, _ in columns])
    rank = np.empty(images.num_rows, np.int64)
    rank[order.to_numpy()] = np.arange(images.num_rows)
    return rank
