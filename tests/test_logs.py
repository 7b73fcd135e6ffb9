"""Lines for people or objects for programs, in the main process and in those that it starts."""

import json
import logging
import os
import subprocess
import sys

import pytest

from vaefill import logs

PROGRAM = """
import logging, subprocess, sys, warnings
from pipeline import logs

logging.warning("a library was first")
if sys.argv[1] == "json":
    logs.choose_json()
if sys.argv[1] != "none":
    logs.start()
logs.start_worker()
logging.getLogger("vaefill.here").info("hello", extra={"number": 3})
warnings.warn("careful")
if len(sys.argv) == 2:
    subprocess.run([sys.executable, "-c", sys.stdin.read(), "none", "worker"], check=True)
"""


def said(kind: str) -> list[str]:
    run = [sys.executable, "-c", PROGRAM, kind]
    # Of another test
    env = {name: value for name, value in os.environ.items() if name != "VAEFILL_LOGS"}
    done = subprocess.run(
        run, input=PROGRAM, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stderr.splitlines()


def test_json_lines_in_both_processes():
    lines = [line for line in said("json") if "a library was first" not in line]
    objects = [json.loads(line) for line in lines]
    assert [each["message"] for each in objects].count("hello") == 2
    assert all(each["time"] and each["level"] in ("INFO", "WARNING") for each in objects)
    assert {each["number"] for each in objects if each["message"] == "hello"} == {3}


def test_lines_for_people_in_both_processes():
    lines = [line for line in said("lines") if line.endswith("hello")]
    assert len(lines) == 2 and all(line[2] == line[5] == ":" for line in lines)


def test_where_nothing_was_started_nothing_is_changed():
    assert not any("hello" in line for line in said("none"))


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.delenv("VAEFILL_LOGS", raising=False)
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    logging.captureWarnings(False)


def test_what_is_started_is_not_started_again(fresh):
    logs.start()
    (handler,) = logging.getLogger().handlers
    logs.start_worker()
    assert logging.getLogger().handlers == [handler] and not logs.is_json()
