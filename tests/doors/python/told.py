"""What each of the scripts is given and tells."""

import json
import os
from collections.abc import Callable
from typing import Any

MODEL = os.environ["MODEL"]
KEY = os.environ["KEY"]
BASE_URL = f"{os.environ['SERVER_URL']}/v1"
QUESTION = "Where does the Danube flow?"


def failure(call: Callable[[], Any]) -> str:
    """The name of the exception."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  # which one it is, is what is asked
        return type(error).__name__
    return ""


def tell(**told: Any) -> None:
    print(json.dumps(told))  # noqa: T201  # what the test reads
