from tests.doors.npm import chromium, npm
from tests.doors.pypi import pypi

__all__ = ["chromium", "npm", "pypi"]
