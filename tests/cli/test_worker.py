"""`freshet worker`, in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LIMIT_S = 120


def test_a_worker_starts_from_nothing_and_stops_cleanly(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "app", "worker", "--concurrency", "1"],
        cwd=_ROOT,
        env={"PATH": os.environ["PATH"], "FRESHET_DATA_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    alarm = threading.Timer(_LIMIT_S, worker.kill)
    alarm.start()
    try:
        assert worker.stdout is not None
        said = ""
        for line in worker.stdout:
            said += line
            if "Working" in line:
                worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0, said
    finally:
        alarm.cancel()
        worker.kill()
        worker.communicate()
    assert "at most 1 at once" in said
    assert "Stopped" in said
