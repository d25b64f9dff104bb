import json
import os
import sys

import httpx2

arguments = dict(enumerate(sys.argv))
body = {"message": arguments.get(1, "What is Freshet?"), "assistant_id": arguments.get(2, "freshet-docs")}
url = os.environ.get("FRESHET_URL", "http://127.0.0.1:8000") + "/api/v1/chat/stream"
with httpx2.stream("POST", url, json=body, timeout=60) as response:
    if response.is_error:
        sys.exit(json.loads(response.read())["message"])
    for event in map(json.loads, response.iter_lines()):
        if event["type"] == "token":
            sys.stdout.write(event["content"])
            sys.stdout.flush()
        elif event["type"] == "error":
            sys.exit(event["message"])
