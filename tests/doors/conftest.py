from tests.doors.npm import npm

__all__ = ["npm"]
