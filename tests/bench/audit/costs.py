"""What the detectors cost: UNet forwards a prompt of each column of findings.parquet."""

from pathlib import Path

import numpy as np

from pipeline.io import schemas
from pipeline.io.runfolder import FINDINGS, PROBES
from pipeline.io.runjson import read_run_config
from pipeline.io.tables import read_foreign, read_rows

_FIRST = ("noise_gap", "webster", "anisotropy_cosine")
_SECOND = ("anisotropy", "dsm_change")
_DRAWN = ("rate", "clique_size", "density_cluster_size")


def forwards_of_columns(run: Path) -> dict[str, float]:
    """Mean forwards a prompt by column, of one audit; columns whose cost is not known are absent.

    Those of one pass share their forwards: each is given the whole.
    """
    config = read_run_config(run)
    pair = 2 * config.screen.seeds
    found = {
        **dict.fromkeys(_FIRST, float(pair)),
        **dict.fromkeys(_SECOND, 2.0 * pair),
        "noise_gap_all": float(pair * config.screen.steps),
        "dsm_change_2": 3.0 * pair,
    }
    drawn = read_foreign(run / FINDINGS, columns=["n_generated"])["n_generated"].to_numpy()
    if len(drawn):
        spent = 2 * config.generate.steps * float(np.mean(drawn))
        found |= dict.fromkeys(_DRAWN, spent)
    if (run / PROBES).is_file():
        counts: dict[str, list[int]] = {}
        for row in read_rows(run / PROBES, schemas.PROBES):
            counts.setdefault(row["probe"], []).append(row["n_forwards"])
        found |= {name: float(np.mean(values)) for name, values in counts.items()}
    return found
