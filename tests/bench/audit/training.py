"""The models whose memorization is known, trained in processes of one thread."""

import time
from pathlib import Path

import torch

from pipeline.demo.train import ASSETS, train_model
from tests.bench.audit.autoencoder import fit_autoencoder
from tests.bench.audit.sources import open_source
from tests.bench.audit.steps import once

SHIPPED = "clipart"  # the source that the shipped autoencoder knows


def make_autoencoder(source: str, folder: Path, steps: int) -> None:
    """The autoencoder of a source, in `folder`; none for the one that comes with the demo."""

    def build(partial: Path) -> None:
        rms = fit_autoencoder(open_source(source), partial, steps)
        print(f"{folder.name}: pictures come back with an RMS of {rms:.4f}", flush=True)

    torch.set_num_threads(1)
    once(folder, {"source": source, "steps": steps}, build)


def make_model(
    shards: Path, folder: Path, *, steps: int, seed: int, autoencoder: Path | None
) -> None:
    """A text-to-image model by the demo's recipe."""

    def build(partial: Path) -> None:
        start = time.process_time()

        def tell(step: int, of: int, loss: float) -> None:
            if step % 200 == 0:
                spent = time.process_time() - start
                print(
                    f"{folder.name}: step {step} of {of}, loss {loss:.3f}, {spent:.0f} s",
                    flush=True,
                )

        train_model(
            shards,
            partial,
            steps=steps,
            seed=seed,
            threads=1,
            on_progress=tell,
            autoencoder=autoencoder or ASSETS / "vae",
        )

    torch.set_num_threads(1)
    facts = {"steps": steps, "seed": seed, "autoencoder": autoencoder and autoencoder.name}
    once(folder, facts, build)
