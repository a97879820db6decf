"""Move DICOM dates by a number of days; times of day stay as they are.

    DA, DT, TM as text -> checked against its form -> the same form, days earlier; None when it is of no such form

PS3.15 E.3.6 (modified dates); forms: PS3.5 6.2, and the dotted form of ACR-NEMA.
"""

import re
from datetime import date, timedelta

_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?")
_MOMENT = re.compile(r"(\d{8})((?:\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?)(?:[+-]\d{4})?")


def shift_date(text: str, days: int) -> str | None:
    """Return a date so many days later, as YYYYMMDD; None when the text is no date or leaves the calendar.

    >>> shift_date("20200301", -1), shift_date("2020.01.02", 365), shift_date("January", 1)
    ('20200229', '20210101', None)
    """
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    try:
        moved = date(int(found[1]), int(found[3]), int(found[4])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved:%m%d}"


def shift_moment(text: str, days: int) -> str | None:
    """Return a date with a time so many days later; the offset from UTC, which tells a region, is left out.

    >>> shift_moment("20200301101500.5+0100", -1), shift_moment("2020", -1)
    ('20200229101500.5', None)
    """
    found = _MOMENT.fullmatch(text.strip())
    moved = shift_date(found[1], days) if found else None
    return f"{moved}{found[2]}" if found and moved else None


def plain_time(text: str) -> str | None:
    """Return a time of day without colons; None when the text is none.

    >>> plain_time("10:15:00"), plain_time("101500.123"), plain_time("Meier")
    ('101500', '101500.123', None)
    """
    return text.strip().replace(":", "") if _TIME.fullmatch(text.strip()) else None
