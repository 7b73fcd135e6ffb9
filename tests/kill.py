"""SIGKILL at random moments of a job, each followed by a rerun to the end.

    python -m tests.kill --kills 100

After every kill there is no result, or a whole one; after every rerun the bytes are those of a run
that nobody killed, and what had been computed was not computed again. `tests/test_kill.py` does
this ten times.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from typing import NamedTuple

from vaefill import config as config_lib
from vaefill import jobs
from vaefill.results import integrity
from vaefill.results.documents import Work
from vaefill.results.reading import read_manifest
from vaefill.store.resume import ResumeCache

SETTINGS = (  # every record takes as long, and little is compiled
    "sampler.name=pseudo_gibbs",
    "sampler.num_warmup=0",
    "sampler.max_sweeps=600",
    "sampler.target_ess=1e9",
    "sampler.num_evidence_draws=0",
)
NUM_RECORDS = 150
_FOLDERS = ("imputed/", "summary/", "dead_letters/")
_SECONDS = 120.0  # a run takes a few
# Processes are forked from one that has imported everything, and started nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vaefill.model.training", "vaefill.jobs"])


class Kill(NamedTuple):
    """What came of a kill and the rerun after it."""

    seconds: float  # from the moment that the run began to stage
    num_computed: int  # records that the killed run left
    num_reused: int  # by the rerun
    work: float  # sweeps of the rerun, of those of a run that was not killed


def impute(model: str, pattern: str, out: str) -> None:
    """The job, in a process of its own."""
    jobs.impute(config_lib.load("test.yaml", SETTINGS), model, [pattern], out)


def start(*arguments: str) -> multiprocessing.Process:
    """Starts the job and waits until it stages."""
    process = CONTEXT.Process(target=impute, args=arguments)
    process.start()
    deadline = time.monotonic() + _SECONDS
    while process.is_alive() and not os.path.exists(f"{arguments[-1]}.staging/computed"):
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.002)
    return process


def finish(process: multiprocessing.Process) -> None:
    """Waits for a job that must succeed."""
    process.join(_SECONDS)
    assert process.exitcode == 0, f"the run ended with {process.exitcode}"


def content(out: str) -> dict[str, str]:
    """The SHA-256 of every file that must not depend on luck, of a result that is whole."""
    files = integrity.verify(out).files
    return {name: digest for name, digest in files.items() if name.startswith(_FOLDERS)}


class Killer:
    """Kills runs of one job over one input.

    Args:
        model, pattern: of the job.
        directory: to work in.
    """

    def __init__(self, model: str, pattern: str, directory: str):
        self._job, self._out = (model, pattern), os.path.join(directory, "out")
        process, began = start(*self._job, self._out), time.monotonic()
        finish(process)
        self.seconds = time.monotonic() - began
        self._expected, self._sweeps = content(self._out), self._work().chain_sweeps

    def _work(self) -> Work:
        return read_manifest(self._out).work

    def kill(self, seconds: float) -> Kill:
        """Kills a run so long after it began to stage, and runs the job again.

        Raises:
            AssertionError: something was lost, or half-done, or done twice.
        """
        shutil.rmtree(self._out)
        process = start(*self._job, self._out)
        process.join(seconds)
        process.kill()
        process.join()
        computed = f"{self._out}.staging/computed"
        num_computed = ResumeCache(computed).take_over() if os.path.exists(computed) else 0
        if was_published := os.path.exists(self._out):
            assert content(self._out) == self._expected, "the killed run published something else"
        finish(start(*self._job, self._out))
        assert content(self._out) == self._expected, (
            "the bytes differ from those of a run that was not killed"
        )
        assert os.listdir(os.path.dirname(self._out)) == ["out"], "something was left behind"
        work = self._work()
        if was_published:
            return Kill(seconds, num_computed, num_computed, 0.0)
        assert work.reused == num_computed, (
            f"{num_computed} records were computed, {work.reused} reused"
        )
        return Kill(seconds, num_computed, work.reused, work.chain_sweeps / self._sweeps)


def run(killer: Killer, num_kills: int, seed: int, report=lambda kill: None) -> list[Kill]:
    """Kills at moments spread at random over a whole run."""
    chance, found = random.Random(seed), []
    for index in range(num_kills):
        # One in each of as many stretches of equal length, so that none is spared.
        found.append(killer.kill(killer.seconds * (index + chance.random()) / num_kills))
        report(found[-1])
    return found


def main() -> None:
    """Trains a model for a moment, and kills."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model, pattern = prepare(directory)
        os.makedirs(work := os.path.join(directory, "work"))
        killer = Killer(model, pattern, work)
        found = run(killer, arguments.kills, arguments.seed, lambda kill: print(kill, flush=True))
    saved = sum(kill.num_reused > 0 for kill in found)
    print(
        f"{len(found)} kills: every rerun gave the same bytes; "
        f"{saved} of them had less to compute, 0 records lost"
    )


def prepare(directory: str) -> tuple[str, str]:
    """A model directory and the pattern of masked records, made by processes of their own."""
    model, masked = os.path.join(directory, "model"), os.path.join(directory, "masked")
    for target, path in ((_train, model), (_mask, masked)):
        process = CONTEXT.Process(target=target, args=(path,))
        process.start()
        finish(process)
    return model, os.path.join(masked, "*.tfrecord-*")


def _train(path: str) -> None:
    from vaefill.model import training

    config = config_lib.load("test.yaml")
    settings = training.Settings(
        config.data, config.record, config.model, config.train, config.seed
    )
    training.train_and_evaluate(settings, path, show_progress=False)


def _mask(path: str) -> None:
    jobs.mask(config_lib.load("test.yaml"), f"digits/test[:{NUM_RECORDS}]", path)


if __name__ == "__main__":
    main()
