"""Inner products inside cells on an accelerator, by torch, which is imported only when asked for.

Half precision proposes, float64 decides: inputs and products in fp16 have a relative error of at
most 2^-11 each, so for unit vectors an inner product is off by less than 2^-9, and the search is
widened by as much. Whatever is proposed is scored again on the CPU, so that the pairs and their
scores are those of the CPU, byte for byte.
"""

from typing import Any, Literal

import numpy as np

from indexes.errors import VectorError
from indexes.metrics import AnyVectors, Rows, cosine_error
from indexes.sketch import directions

Precision = Literal["float16", "float32"]

PRODUCT_ERROR: dict[Precision, float] = {"float16": 2.0**-9, "float32": 2.0**-9}
"""How far a product may be off; for float32, too, since matrix units may round it to TF32."""

_PRODUCTS_AT_ONCE = 1 << 28
_ROWS_AT_ONCE = 1 << 16
_SHARE_OF_MEMORY = 0.5
"""Of the device's free memory: if all vectors fit in it they stay there."""


class DeviceProducts:
    """The vectors (n, d) of a set, normalised, on `device`: all at once where there is room."""

    def __init__(
        self, vectors: AnyVectors, device: str, *, precision: Precision | None = None
    ) -> None:
        self._torch = _torch()
        self._vectors = vectors
        try:
            self._device = self._torch.device(device)
            on_cpu = self._device.type == "cpu"
            self._precision: Precision = precision or ("float32" if on_cpu else "float16")
            self._dtype = getattr(self._torch, self._precision)
            self._torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise VectorError(f"device {device!r}: {str(error).splitlines()[0]}") from error
        self._error = cosine_error(vectors.shape[1])
        self._error += 0.0 if on_cpu and self._precision == "float32" else self._product_error()
        self._all = self._stay() if self._fits() else None

    def near(self, guests: Rows, hosts: Rows, threshold: float) -> tuple[Rows, Rows]:
        """Pairs of a row of `guests` and one of `hosts` that may have a cosine of `threshold`.

        None that has it is left out; a few that are just below it are among them.
        """
        kept = self._rows(hosts)
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        at_once = max(1, _PRODUCTS_AT_ONCE // max(len(hosts), 1))
        for start in range(0, len(guests), at_once):
            some = guests[start : start + at_once]
            near = self._rows(some) @ kept.T >= threshold - self._error
            guest, host = near.nonzero(as_tuple=True)
            found.append((some[guest.cpu().numpy()], hosts[host.cpu().numpy()]))
        guest_rows, host_rows = (np.concatenate(column) for column in zip(*found, strict=True))
        return guest_rows, host_rows

    def _product_error(self) -> float:
        return PRODUCT_ERROR[self._precision]

    def _fits(self) -> bool:
        if self._device.type != "cuda":
            return False
        free, _ = self._torch.cuda.mem_get_info(self._device)
        needed = self._vectors.size * self._dtype.itemsize
        return bool(needed < _SHARE_OF_MEMORY * free)

    def _stay(self) -> Any:
        every = self._torch.empty(self._vectors.shape, dtype=self._dtype, device=self._device)
        for start in range(0, len(self._vectors), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            every[block] = self._sent(block)
        return every

    def _rows(self, rows: Rows) -> Any:
        if self._all is None:
            return self._sent(rows)
        return self._all[self._torch.from_numpy(rows).to(self._device)]

    def _sent(self, rows: Rows | slice) -> Any:
        unit = self._torch.from_numpy(directions(self._vectors[rows]))
        return unit.to(self._device, self._dtype)


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415  not needed without a device
    except ImportError as error:
        raise VectorError("a device needs torch, which is not installed") from error
    # sums in fp16 would err by more than PRODUCT_ERROR
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return torch
