"""Periods of time: years, quarters and months, alone or several together, and the dates of texts.

    by="year"             2015          every=3    2015-2017
    by="quarter"          2015Q2        every=2    2015Q1-2015Q2
    by="month"            2015-07       every=6    2015-01-2015-06

Periods of several units are counted from the first.
"""

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["year", "quarter", "month"]
MONTHS: dict[str, int] = {"year": 12, "quarter": 3, "month": 1}
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)(?:[-_/.Q]?(\d{1,2}))?(?!\d)(?:[-_/.](\d{1,2}))?")
_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)(?!\d)")


def parse_month(text: str, *, months_from: int = 1) -> int | None:
    """Months since the year 0 of the first date in a text: 2015, 2015-07, 20150731, 2015_7, 2015Q3.

    A year alone is its January, a quarter its first month. months_from: what January is called.
    None where there is no date.
    """
    found = _COMPACT.search(text) or _DATE.search(text)
    if found is None:
        return None
    year, number = int(found[1]), found[2]
    if number is None:
        return 12 * year
    month = int(number) - months_from
    if "Q" in found[0]:
        month = 3 * (int(number) - 1)
    return 12 * year + month if 0 <= month < 12 else None


@dataclass(frozen=True)
class Calendar:
    """How time is cut: `every` units to a period, counted from the month `origin`."""

    by: Unit = "year"
    every: int = 1
    origin: int = 0

    def __post_init__(self) -> None:
        if self.by not in MONTHS:
            raise ValueError(f"by: must be year, quarter or month, got {self.by!r}")
        if self.every < 1:
            raise ValueError(f"every: must be at least 1, got {self.every}")

    @property
    def months(self) -> int:
        """Of a period."""
        return MONTHS[self.by] * self.every

    def number(self, month: int) -> int:
        """Of the period that a month lies in; the one that `origin` lies in is 0."""
        start = self.origin // MONTHS[self.by] * MONTHS[self.by]
        return (month - start) // self.months

    def label(self, number: int) -> str:
        """A period's name; see above."""
        start = self.origin // MONTHS[self.by] * MONTHS[self.by] + number * self.months
        first = self._unit(start)
        return first if self.every == 1 else f"{first}-{self._unit(start + self.months - 1)}"

    def _unit(self, month: int) -> str:
        year, rest = divmod(month, 12)
        if self.by == "year":
            return f"{year}"
        return f"{year}Q{rest // 3 + 1}" if self.by == "quarter" else f"{year}-{rest + 1:02d}"
