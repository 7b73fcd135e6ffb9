"""Logs on stderr: lines for people, or JSON objects for programs; in worker processes as in the
main one.
"""

import logging
import os
import sys

# Environment variable, by which worker processes on this machine know: lines or json
_FORMAT = "VAEFILL_LOGS"


def choose_json() -> None:
    """Makes every line a JSON object from `start` on."""
    os.environ[_FORMAT] = "json"


def is_json() -> bool:
    """Whether lines are JSON objects."""
    return os.environ.get(_FORMAT) == "json"


_started_by: list[int] = []  # the process that has called `start`


def start() -> None:
    """Sets logging up, whatever a library has done before."""
    _started_by[:] = [os.getpid()]
    os.environ.setdefault(_FORMAT, "lines")
    logging.basicConfig(level=logging.ERROR, handlers=[_handler()], force=True)
    logging.captureWarnings(True)
    logging.getLogger("vaefill").setLevel(logging.INFO)
    # What fails is reported once, by us
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Options it does not know
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.WARNING)


def start_worker() -> None:
    """Sets logging up as in the process that started this one; on a cluster it is Beam's
    business.
    """
    if _FORMAT in os.environ and _started_by != [os.getpid()]:
        start()


def _handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    if is_json():
        from pythonjsonlogger.json import JsonFormatter

        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter(["levelname", "name", "message"], rename_fields=names, timestamp="time")
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return handler
