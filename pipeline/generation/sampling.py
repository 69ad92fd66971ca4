"""How pictures are drawn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """`scheduler` is a name of pipeline.generation.schedulers; "default" keeps the model's own.

    `guidance` is the weight of classifier-free guidance; for a model that was distilled to need
    none (FLUX dev, latent consistency models) it is the weight that the network is told, and
    `true_cfg` above 1 guides it by a second, unconditional prediction all the same.
    """

    scheduler: str = "default"
    steps: int = 25
    guidance: float = 2.0
    negative_prompt: str = ""
    true_cfg: float = 1.0

    def __str__(self) -> str:
        """What ids of pictures are hashed from: a later setting shows where it is used alone."""
        text = (
            f"Sampling(scheduler={self.scheduler!r}, steps={self.steps!r}, "
            f"guidance={self.guidance!r}, negative_prompt={self.negative_prompt!r}"
        )
        return text + (f", true_cfg={self.true_cfg!r})" if self.true_cfg != 1 else ")")
