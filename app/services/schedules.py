"""When a connector is synchronised by itself: every so many minutes, hours or days, or by a line of cron in UTC."""

import re
from datetime import datetime, timedelta

from croniter import CroniterError, croniter

from app.errors import InvalidInput

_EVERY = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_AT_LEAST = timedelta(minutes=1)


def check(schedule: str) -> None:
    """Raises `InvalidInput`."""
    if _EVERY.fullmatch(schedule):
        return
    if len(schedule) > 100 or len(schedule.split()) != 5 or not croniter.is_valid(schedule):
        raise InvalidInput(
            "A schedule is a number with m, h or d, as 30m or 6h, or the five fields of cron, as 0 3 * * 1-5 (in UTC)."
        )


def following(schedule: str, after: datetime) -> datetime | None:
    """None where a line of cron names no day that comes."""
    if every := _EVERY.fullmatch(schedule):
        return after + max(int(every[1]) * _UNITS[every[2]], _AT_LEAST)
    try:
        return croniter(schedule, after).get_next(datetime)
    except CroniterError:
        return None
