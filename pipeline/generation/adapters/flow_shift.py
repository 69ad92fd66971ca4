"""The time shift of flow models that depends on the size of the picture.

Larger pictures keep more of their content at the same noise, so the sampler stays longer where
there is much: μ is linear in the number of image tokens between two sizes that the scheduler
names (Esser et al. 2024, section 5.3.2, with the linear rule of FLUX).
"""

from typing import Any

_RULE = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


def dynamic_shift(scheduler: Any, tokens: int, *, max_shift: float = 1.15) -> float:
    """μ for `tokens` image tokens by the scheduler's settings; `max_shift` where it has none."""
    defaults = _RULE | {"max_shift": max_shift}
    rule = {name: float(scheduler.config.get(name) or defaults[name]) for name in defaults}
    span = rule["max_image_seq_len"] - rule["base_image_seq_len"]
    slope = (rule["max_shift"] - rule["base_shift"]) / span
    return slope * (tokens - rule["base_image_seq_len"]) + rule["base_shift"]
