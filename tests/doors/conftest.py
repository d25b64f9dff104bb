from tests.doors.npm import chromium, npm

__all__ = ["chromium", "npm"]
