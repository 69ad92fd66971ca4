"""The one error of this library."""


class MeasureError(ValueError):
    """Arguments that a measure is not defined on: a wrong shape, dtype or range, or not finite."""
