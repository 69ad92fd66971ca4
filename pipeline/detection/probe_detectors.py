"""Detectors that ask the model more than the screen does: names, sources, and what they share.

Each is a column of findings.parquet; high means memorized. What they cost is counted where they run
(pipeline/stages/probe.py). Those of one pass share their forwards.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProbeDetector:
    """One detector: its column, what it is called, where it is from, the pass it is part of."""

    name: str
    title: str
    source: str
    shared_pass: str


PROBE_DETECTORS: tuple[ProbeDetector, ...] = (
    ProbeDetector("edges", "Common edges of one-step pictures", "Webster 2023", "edges"),
    ProbeDetector("sharpness", "Sharpness", "Jeon 2025", "sharpness"),
    ProbeDetector(
        "attention_entropy_first", "Cross-attention entropy, first step", "Ren 2024", "attention"
    ),
    ProbeDetector("attention_entropy", "Cross-attention entropy, drift", "Ren 2024", "attention"),
    ProbeDetector("bright_ending", "Noise gap at the bright ending", "Chen 2025", "attention"),
    ProbeDetector("seed_agreement", "Agreement of seeds", "NeMo 2024", "seed_agreement"),
)
