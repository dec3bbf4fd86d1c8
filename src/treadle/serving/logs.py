"""What a server says while it runs: a line an event, for people or as JSON."""

import json
import logging
import sys
import time

FORMS = ("text", "json")


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, message, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


def log_to_stderr(form: str) -> None:
    """Let treadle's events, and warnings of others, go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("treadle").setLevel(logging.INFO)
