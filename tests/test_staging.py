"""All or nothing: a killed run leaves the old result or the new one, and what it had computed."""

import multiprocessing
import os
import shutil

import pytest

from tests.documents import impute_identity, manifest, record_identity
from vaefill.errors import ResultError
from vaefill.results import integrity, staging

IDENTITY = impute_identity(seed=1)
OTHER = impute_identity(seed=2)


def make(staged: staging.Stage, text: str, identity) -> None:
    with open(os.path.join(staged.root, "file"), "w", encoding="utf-8") as file:
        file.write(text)
    integrity.seal(staged.root, manifest(identity))


def publish(out, identity=IDENTITY, text: str = "content", replace: bool = False) -> None:
    with staging.stage(str(out), identity, replace) as staged:
        make(staged, text, identity)
        staging.publish(staged)


def compute(out, of_records, text: str) -> None:
    """An attempt that computes something, and goes no further."""
    with staging.stage(str(out), IDENTITY, False, of_records) as staged:
        with open(os.path.join(staged.computed, "file"), "w", encoding="utf-8") as file:
            file.write(text)


def test_a_published_result_is_whole_and_nothing_is_beside_it(tmp_path):
    publish(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert integrity.verify(str(tmp_path / "out")).identity == IDENTITY
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_the_same_run_again_has_nothing_to_do_even_where_nothing_can_be_written(
    tmp_path, monkeypatch
):
    publish(tmp_path / "out")
    monkeypatch.setattr(os, "makedirs", None)
    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        assert staged is None


def test_another_run_is_refused_unless_it_may_replace(tmp_path):
    publish(tmp_path / "out")
    with pytest.raises(ResultError, match="--replace"):
        publish(tmp_path / "out", OTHER)
    publish(tmp_path / "out", OTHER, "new", replace=True)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_directory_may_be_used(tmp_path):
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "file").exists()


def test_the_old_result_stays_until_the_new_one_is_whole(tmp_path):
    publish(tmp_path / "out")
    with staging.stage(str(tmp_path / "out"), OTHER, True) as staged:
        make(staged, "new", OTHER)
        assert integrity.verify(str(tmp_path / "out")).identity == IDENTITY
        staging.publish(staged)
    assert integrity.verify(str(tmp_path / "out")).identity == OTHER


class Killed(BaseException):
    pass


@pytest.mark.parametrize("rename", [0, 1])
def test_a_kill_at_either_rename_loses_no_result(tmp_path, monkeypatch, rename):
    """Before the first one the old result is there; between the two the next run puts it back."""
    publish(tmp_path / "out")
    renames, really = [], os.rename

    def kill(source, target):
        if len(renames) == rename:
            raise Killed
        renames.append(really(source, target))

    monkeypatch.setattr(os, "rename", kill)
    with pytest.raises(Killed):
        publish(tmp_path / "out", OTHER, "new", replace=True)
    monkeypatch.undo()
    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        assert staged is None
    assert (tmp_path / "out" / "file").read_text() == "content"
    publish(tmp_path / "out", OTHER, "new", replace=True)
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "file").read_text() == "new"


def test_an_empty_directory_in_its_place_does_not_cost_the_old_result(tmp_path):
    """As a script makes one that begins with `mkdir -p OUT`."""
    publish(tmp_path / "out")
    (tmp_path / "out.staging").mkdir()
    (tmp_path / "out").rename(tmp_path / "out.staging" / "replaced")
    (tmp_path / "out").mkdir()
    with pytest.raises(Killed), staging.stage(str(tmp_path / "out"), OTHER, True):
        raise Killed
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_a_kill_while_it_tidies_up_leaves_nothing_for_good(tmp_path, monkeypatch):
    publish(tmp_path / "out")

    really = shutil.rmtree

    def kill(path, ignore_errors=False):
        if os.path.basename(path) == "replaced":
            raise Killed
        really(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", kill)
    with pytest.raises(Killed):
        publish(tmp_path / "out", OTHER, "new", replace=True)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["out", "out.staging"]
    with staging.stage(str(tmp_path / "out"), OTHER, False) as staged:
        assert staged is None
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "file").read_text() == "new"


def test_no_run_works_where_another_tidies_up(tmp_path, monkeypatch):
    """Until the lock, which is the last to go, has gone."""
    really, told = shutil.rmtree, []

    def remove(path, ignore_errors=False):
        try:
            publish(tmp_path / "out", OTHER, "late", replace=True)
        except ResultError as error:
            told.append(str(error))
        really(path, ignore_errors=ignore_errors)

    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        make(staged, "content", IDENTITY)
        monkeypatch.setattr(shutil, "rmtree", remove)
        staging.publish(staged)
    assert told and all("another run is writing" in message for message in told)
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_a_link_is_followed_and_a_mount_point_refused(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big")
    publish(tmp_path / "out")
    publish(tmp_path / "out", OTHER, "new", replace=True)
    assert (tmp_path / "out").is_symlink() and (tmp_path / "big" / "file").read_text() == "new"
    with pytest.raises(ResultError, match="is a mount point"):
        publish("/proc")


def test_object_stores_are_refused_for_now():
    with pytest.raises(ResultError, match="^gs://bucket/out: .* can rename a directory$"):
        publish("gs://bucket/out")


def test_what_was_computed_is_kept_for_the_same_and_for_nothing_else(tmp_path):
    out, computed = tmp_path / "out", tmp_path / "out.staging" / "computed"
    compute(out, record_identity(seed=1), "first")
    # Other inputs, say
    with staging.stage(str(out), OTHER, False, record_identity(seed=1)) as staged:
        assert staged.computed == str(computed) and (computed / "file").read_text() == "first"
    with staging.stage(str(out), IDENTITY, False, record_identity(seed=2)):
        assert os.listdir(computed) == []


def test_attempts_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    for name in ("out.staging-mine", "out.old", "out.stagingx"):
        (tmp_path / name).mkdir()
    compute(tmp_path / "out", record_identity(seed=1), "first")
    before = {name for name in os.listdir(tmp_path / "out.staging") if name.startswith("attempt-")}
    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        after = {
            name for name in os.listdir(tmp_path / "out.staging") if name.startswith("attempt-")
        }
        assert after == {os.path.basename(staged.root)} and not before & after
        make(staged, "content", IDENTITY)
        staging.publish(staged)
    assert sorted(os.listdir(tmp_path)) == ["out", "out.old", "out.staging-mine", "out.stagingx"]


def test_of_two_runs_at_once_one_is_told(tmp_path):
    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        with pytest.raises(ResultError, match="another run is writing .*out"):
            publish(tmp_path / "out")
        publish(tmp_path / "other")
        make(staged, "content", IDENTITY)
        staging.publish(staged)
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def race(out, gate, told) -> None:
    gate.wait()
    try:
        with staging.stage(str(out), IDENTITY, False) as staged:
            if staged is None:
                told.put("done")
                return
            make(staged, "content", IDENTITY)
            staging.publish(staged)
            told.put("won")
    except ResultError:
        told.put("told")


def test_of_many_processes_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    gate, told = context.Barrier(8), context.Queue()
    runs = [context.Process(target=race, args=(tmp_path / "out", gate, told)) for _ in range(8)]
    for run in runs:
        run.start()
    ends = [told.get(timeout=60) for _ in runs]
    for run in runs:
        run.join()
    assert ends.count("won") == 1, ends
    assert os.listdir(tmp_path) == ["out"] and integrity.verify(str(tmp_path / "out"))


def test_nothing_staged_is_left_where_there_is_nothing_to_publish(tmp_path):
    with staging.stage(str(tmp_path / "out"), IDENTITY, False) as staged:
        staging.discard(staged)
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_written_is_an_operating_system_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        publish(tmp_path / "file" / "out")


def test_dead_letters_of_a_failed_run_stay_until_an_attempt_has_its_own(tmp_path):
    """And go with the rest when one succeeds; there is one file of them at most."""
    out, kept = str(tmp_path / "out"), tmp_path / "out.staging" / "dead_letters.tfrecord"

    def fail(text):
        with pytest.raises(Killed), staging.stage(out, IDENTITY, False) as staged:
            if text is not None:
                os.makedirs(os.path.join(staged.root, "dead_letters"))
                path = os.path.join(staged.root, "dead_letters", "dead_letters.tfrecord")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            raise Killed

    for text, found in (("first", None), (None, "first"), ("", "first"), ("second", "first")):
        fail(text)
        assert (kept.read_text() if kept.exists() else None) == found
    fail(None)
    assert kept.read_text() == "second"
    publish(out)
    assert os.listdir(tmp_path) == ["out"]
