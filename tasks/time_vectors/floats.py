"""Slices of tensors as they lie on disk, widened to compute with and rounded once on the way back.

    F64 -> float64        F32, F16, BF16 -> float32        everything else is not arithmetic's business

bfloat16 is the upper half of a float32. Rounding to it is to the nearest, ties to even: add half of
the lower half's unit, less one where the last kept bit is 0, and cut.
"""

import numpy as np

from tasks.errors import UserError

# Of safetensors: name -> bytes an element, and for those that numpy knows, its type.
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
FLOATING: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
UNKNOWN_FLOATS = {"F8_E4M3", "F8_E5M2", "C64"}


def wide(dtypes: list[str]) -> np.dtype:
    """What to compute in: float64 where one of the inputs is, else float32."""
    return np.dtype(np.float64 if "F64" in dtypes else np.float32)


def is_floating(dtype: str, where: str) -> bool:
    """Whether arithmetic applies to a type. Raises UserError for a float that is not computed with."""
    if dtype in UNKNOWN_FLOATS:
        raise UserError(f"{where}: is {dtype}; convert it to BF16, F16 or F32 first")
    return dtype in FLOATING


def widen(raw: np.ndarray, dtype: str, out: np.ndarray) -> np.ndarray:
    """The bytes `raw` of a floating type as numbers, in `out` (float32 or float64) or in place."""
    stored = raw.view(FLOATING[dtype])
    if dtype == "BF16":
        single = np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
        out[: len(single)] = single
        return out[: len(single)]
    if stored.dtype == out.dtype:
        return stored
    out[: len(stored)] = stored
    return out[: len(stored)]


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers rounded, once, to a floating type, as its bytes."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):  # too large for the type is infinity, as it should be
            return values.astype(FLOATING[dtype], copy=False).view(np.uint8)
    if values.dtype == np.float64:
        values = _to_odd(values)
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = 0x7FC0
    return rounded.astype("<u2").view(np.uint8)


def _to_odd(values: np.ndarray) -> np.ndarray:
    """float64 to float32 rounded to odd, after which rounding to bfloat16 is as if done at once."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    bits = single.view(np.uint32)
    error = values - single
    inexact = np.isfinite(single) & (error != 0)
    # Where the nearest float32 lies away from zero, step back; then set the last bit.
    outward = inexact & ((error < 0) == (values > 0))
    bits -= outward.astype(np.uint32)
    bits |= inexact.astype(np.uint32)
    return single
