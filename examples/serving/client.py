"""One live sequence over HTTP, a request a step, with nothing but Python's standard library.

The server: ``treadle serve net.safetensors``, a network that reads three numbers a step.
"""

import http.client
import json
import math
import sys
import time
from urllib.parse import urlsplit


class Sequence:
    """A sequence on a server: a session of its own, as long as its id is used.

    Each step says at which position it begins. So a step whose answer was lost can be sent again: the server gives the
    answer that it has kept, and takes no second step.
    """

    def __init__(self, model: str, name: str, token: str = ""):
        self.url, self.name, self.step = urlsplit(model), name, 0
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self.connection = http.client.HTTPConnection(self.url.netloc, timeout=10)

    def __call__(self, x: list[float], last: bool = False) -> list[float]:
        """One step; ``last`` closes the session after it."""
        parameters = {"sequence_id": self.name, "step": self.step, "sequence_start": self.step == 0}
        if last:
            parameters["sequence_end"] = True
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(x)], "data": x}
        answer = self.post(json.dumps({"parameters": parameters, "inputs": [tensor]}))
        self.step = answer["parameters"]["step"]
        return answer["outputs"][0]["data"]

    def post(self, body: str, tries: int = 5) -> dict:
        """Send a step, again if the server is full or the connection breaks."""
        for left in reversed(range(tries)):
            try:
                self.connection.request("POST", f"{self.url.path}/infer", body, self.headers)
                response = self.connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 200:
                    return answer
                if response.status not in (429, 503) or not left:
                    raise RuntimeError(answer["error"])
                time.sleep(float(response.headers.get("Retry-After", 1)))
            except (OSError, http.client.HTTPException):
                self.connection.close()
                if not left:
                    raise
                time.sleep(1)
        raise AssertionError


if __name__ == "__main__":
    sequence = Sequence(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v2/models/net", "sensor-8")
    for t in range(5):
        y = sequence([math.sin(t / 3), math.cos(t / 3), 1.0], last=t == 4)
        print(f"step {sequence.step}: " + " ".join(f"{value:+.4f}" for value in y))
