"""Numbers as text: as many digits as the interval supports, one precision per column."""

import math

from zoo.report.stats import Estimate

MINUS = "−"


def column_decimals(estimates: list[Estimate | None]) -> int | None:
    """Decimals that suit a whole column: the fewest that any cell wants, where no cell wants more than
    one more; None where magnitudes differ too much to share them."""
    wanted = [decimals(e.mean, e.half) for e in estimates if e is not None]
    return min(wanted) if wanted and max(wanted) - min(wanted) <= 1 else None


def decimals(mean: float, half: float | None) -> int:
    """Two digits of the half-width, four of a bare mean, never more than six significant digits."""
    wanted = 1 - _magnitude(half) if half else 3 - _magnitude(mean)
    return max(0, min(wanted, 5 - _magnitude(mean), 6))


def number(value: float, places: int | None = None, *, sign: bool = False) -> str:
    """`value` with `places` decimals (four significant digits without); counts are whole, large
    numbers get k M G T, tiny ones an exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    if size >= 1e6:
        body = _scaled(size)
    elif size == 0.0 or (places is None and float(size).is_integer()):
        body = f"{size:,.0f}" if not places else f"{size:.{places}f}"
    elif size < 1e-4 and (places is None or places >= 6):
        body = f"{size:.2e}"
    else:
        body = f"{size:,.{decimals(size, None) if places is None else places}f}"
    if not body.strip("0."):
        return body  # rounded to nothing: it has no sign to show
    lead = MINUS if value < 0 else "+" if sign else ""
    return lead + body


def mean_and_half(
    estimate: Estimate, places: int | None = None, *, sign: bool = False
) -> tuple[str, str]:
    """The two texts of `mean ± half`; the second is empty where there is no (or a zero) interval."""
    mean, half = estimate.mean, estimate.half
    if half and (size := max(abs(mean), half)) >= 1e6:
        factor, letter = _unit(size)
        scaled = Estimate(mean / factor, half / factor, estimate.n)
        mean_text, half_text = mean_and_half(scaled, sign=sign)
        return mean_text + letter, half_text + letter
    if abs(mean) >= 1e6 or _tiny(mean, half):
        return number(mean, sign=sign), number(half) if half else ""
    if not half and float(mean).is_integer():
        return number(mean, sign=sign), ""
    chosen = decimals(mean, half) if places is None else places
    return number(mean, chosen, sign=sign), number(half, chosen) if half else ""


def duration(seconds: float | None) -> str:
    """`75` → `1 min 15 s`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _tiny(mean: float, half: float | None) -> bool:
    return max(abs(mean), half or 0.0) < 1e-4 and mean != 0.0


def _scaled(size: float) -> str:
    factor, letter = _unit(size)
    return f"{size / factor:.{max(0, 2 - _magnitude(size / factor))}f}{letter}"


def _unit(size: float) -> tuple[float, str]:
    for factor, letter in ((1e6, "M"), (1e9, "G"), (1e12, "T")):
        if size < 999.5 * factor:
            return factor, letter
    power = 3 * (_magnitude(size) // 3)
    return 10.0**power, f"e{power}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0
