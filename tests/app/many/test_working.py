"""Each video once, by several processes, whatever kills them."""

import errno
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

import app.jobs
from app.config import LiveConfig
from app.jobs import Engine
from app.many import worker
from app.many.__main__ import main, run
from app.many.engines import Pool
from app.many.plan import Plan, State
from app.many.report import Watch, survey, table
from app.many.worker import MAX_TRIES, claimed
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.many.engine import DIES_WITH, open_fake_engine, plan_of
from tests.app.many.working import NAMES, PATIENCE_S, check_all_finished, start_worker, times_done, wait_for, work
from tests.app.media import write_video


def test_two_processes_at_once_do_each_video_once(folder: Path, out: Path) -> None:
    workers = [start_worker(folder, out) for _ in range(2)]
    said = [worker.communicate(timeout=PATIENCE_S)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert times_done("\n".join(said)) == Counter(str(folder / name) for name in NAMES)
    check_all_finished(plan_of(folder, out))


def test_killed_and_started_again(folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(folder, out)
    killed = start_worker(folder, out)
    wait_for(lambda: len(list(out.rglob("summary.json"))) >= 2 and list(out.rglob("*.partial*")))
    killed.kill()
    first = times_done(killed.communicate()[1])
    states = survey(plan)
    assert 0 < sum(state is State.FINISHED for state in states.values()) < len(NAMES)
    assert "(1 begun)" in table(states, states)
    assert run(plan, "local", Pool(workers=2)) == 0
    second = times_done(re.sub(r"^worker \d: ", "", capfd.readouterr().err, flags=re.MULTILINE))
    assert not first & second
    assert first | second == Counter(str(folder / name) for name in NAMES)
    check_all_finished(plan)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_leaves_nothing_half(folder: Path, out: Path, number: int) -> None:
    plan = plan_of(folder, out)
    asked = start_worker(folder, out)
    wait_for(lambda: list(out.rglob("*.partial*")))
    asked.send_signal(number)
    said = asked.communicate(timeout=PATIENCE_S)[1]
    assert asked.returncode == 0 and "Traceback" not in said
    states = survey(plan)
    assert set(states.values()) <= {State.FINISHED, State.LEFT} and State.LEFT in states.values()
    for job, state in states.items():
        assert job.folder.exists() == (state is State.FINISHED)
        assert not job.work.exists()
    work(plan)
    check_all_finished(plan)


def test_asked_to_stop_while_the_network_is_loaded_it_begins_nothing(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    @contextmanager
    def opened(config: LiveConfig) -> Iterator[Engine]:
        stop.set()
        with open_fake_engine(config) as engine:
            yield engine

    monkeypatch.setattr(app.jobs, "process_video", lambda *_: pytest.fail("began a video"))
    plan = replace(plan_of(folder, out), open_engine=opened)
    work(plan, stop)
    assert set(survey(plan).values()) == {State.LEFT} and not plan.jobs[0].work.exists()


def test_a_claimed_video_is_left_to_its_worker(folder: Path, out: Path) -> None:
    plan = plan_of(folder, out)
    with claimed(plan.jobs[0]) as mine:
        assert mine
        work(plan)
        assert [job for job in plan.jobs if plan.is_open(job)] == [plan.jobs[0]]


def test_failures_are_recorded_and_retried_only_when_asked(folder: Path, out: Path, here: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = folder / "broken.mp4"
    broken.write_text("no video\n" * 50)
    plan = plan_of(folder, out)
    assert run(plan, here, Pool()) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^finished\s+6  \(6 now, 0 before\)$", shown, re.MULTILINE) and "failed: broken.mp4: " in shown
    record = json.loads((out / "broken.mp4.failed.json").read_text())
    assert str(broken) in record["error"] and "\n" not in record["error"]
    before = (out / "broken.mp4.failed.json").stat().st_mtime_ns
    assert run(plan, here, Pool()) == 1
    assert (out / "broken.mp4.failed.json").stat().st_mtime_ns == before
    assert run(plan, here, Pool(), retry_failed=True) == 1
    assert (out / "broken.mp4.failed.json").stat().st_mtime_ns > before
    write_video(broken)  # mended: no need to ask
    assert run(plan, here, Pool()) == 0
    assert not (out / "broken.mp4.failed.json").exists()


def test_a_video_that_kills_its_workers_is_given_up(
    folder: Path, out: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_video(folder / "deadly.mp4", DIES_WITH)
    plan = plan_of(folder, out)
    assert run(plan, "local", Pool(workers=1)) == 1
    assert f"failed: deadly.mp4: {MAX_TRIES} workers died with it" in capsys.readouterr().out
    assert caplog.text.count("died (exit code -9)") == MAX_TRIES
    assert Counter(survey(plan).values()) == {State.FINISHED: 6, State.FAILED: 1}


def test_other_settings_and_other_versions(folder: Path, out: Path) -> None:
    plan = plan_of(folder, out)
    work(plan)
    other = replace(plan, config=LiveConfig(smoothing="none"))
    assert set(survey(other).values()) == {State.CHANGED}
    written = (plan.jobs[0].folder / "meshes.npz").stat().st_mtime_ns
    work(other)
    assert (plan.jobs[0].folder / "meshes.npz").stat().st_mtime_ns == written
    for name in ("people.glb", "person-1.bvh", "person-12.fbx"):
        (plan.jobs[0].folder / name).touch()
    (plan.jobs[0].folder / "notes.txt").touch()
    work(replace(other, redo_changed=True))
    assert set(survey(other).values()) == {State.FINISHED}
    assert {path.name for path in plan.jobs[0].folder.iterdir()} == {"overlay.mp4", "meshes.npz", "summary.json", "notes.txt"}
    assert set(survey(replace(other, config=replace(other.config, device="cuda"))).values()) == {State.FINISHED}
    write_video(folder / "a.mp4", (96, 64), [0.0, 0.1])
    assert Counter(survey(other).values()) == {State.FINISHED: 5, State.CHANGED: 1}


def test_what_is_to_be_done_again_and_fails_is_tried_once(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(video: Path, target: Path, engine: Engine) -> str:
        assert not tried, "tried again without end"
        tried.append(video)
        raise InputError("does not work any more")

    tried: list[Path] = []
    plan = plan_of(folder / "day 2", out)
    work(plan)
    (job,) = plan.jobs
    again = replace(plan, config=LiveConfig(smoothing="none"), redo_changed=True)
    monkeypatch.setattr(app.jobs, "process_video", fails)
    work(again)
    assert tried == [job.video]
    assert again.state(job) is State.FAILED
    states = survey(again)
    assert f"failed: {job.name}: does not work any more" in table(states, states)
    assert plan.state(job) is State.FINISHED
    assert replace(again, config=LiveConfig(smoothing="none", max_people=1)).state(job) is State.CHANGED
    write_video(job.video, (96, 64), [0.0, 0.1])
    assert again.state(job) is State.CHANGED


def test_a_precision_that_a_machine_does_not_have_is_no_other_setting(folder: Path, out: Path) -> None:
    plan = plan_of(folder / "day 2", out, redo_changed=True)
    asked = replace(plan, config=LiveConfig(precision="bf16"))
    work(asked)  # the network that knows the answer runs in fp32, so this would never end
    (job,) = plan.jobs
    settings = json.loads((job.folder / "summary.json").read_text())["settings"]
    assert (settings["precision"], settings["precision_asked"]) == ("fp32", "bf16")
    assert asked.state(job) is State.FINISHED
    assert plan.state(job) is State.FINISHED
    assert replace(plan, config=LiveConfig(precision="fp32")).state(job) is State.FINISHED
    assert replace(plan, config=LiveConfig(precision="int8")).state(job) is State.CHANGED


@pytest.mark.parametrize("beaten_at", ["publish", "process"])
def test_where_locks_do_not_work_the_first_result_stays(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, beaten_at: str
) -> None:
    plan = plan_of(folder / "day 2", out)
    names = iter(("here-1", "there-2"))
    monkeypatch.setattr(worker, "worker_name", lambda: next(names))
    monkeypatch.setattr(socket, "gethostname", lambda: "there")
    monkeypatch.setattr(worker, "claimed", lambda job: nullcontext(True))
    changed, name = (worker, "publish") if beaten_at == "publish" else (app.jobs, "process_video")
    original = getattr(changed, name)

    def beaten(*arguments: object) -> object:
        monkeypatch.setattr(changed, name, original)
        work(plan_of(folder / "day 2", out))
        (first,) = ((plan.jobs[0].folder / "meshes.npz").stat().st_mtime_ns,)
        written.append(first)
        return original(*arguments)

    written: list[int] = []
    monkeypatch.setattr(changed, name, beaten)
    work(plan)
    assert "finished by another worker" in caplog.text
    assert (plan.jobs[0].folder / "meshes.npz").stat().st_mtime_ns == written[0]
    assert survey(plan)[plan.jobs[0]] is State.FINISHED
    assert len(list(plan.jobs[0].folder.iterdir())) == 3
    assert not plan.jobs[0].failure.exists()
    assert not plan.jobs[0].work.exists()


class Breaks(TubeEstimator):
    """Raises an error at every video."""

    error: Exception = RuntimeError("a bug")

    def from_crops(self, crops: list) -> list:
        raise self.error


def plan_that_breaks(folder: Path, out: Path, error: Exception) -> Plan:
    estimator = Breaks()
    estimator.error = error
    return replace(plan_of(folder, out), open_engine=lambda config: nullcontext(Engine(estimator, RectangleDetector(), config)))


def test_a_broken_machine_does_not_fail_them_all(folder: Path, out: Path) -> None:
    plan = plan_that_breaks(folder, out, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        work(plan)
    assert Counter(survey(plan).values()) == {State.FAILED: 3, State.LEFT: 3}


def test_a_full_disk_is_no_fault_of_a_video(folder: Path, out: Path) -> None:
    plan = plan_that_breaks(folder, out, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(InputError, match="No space left"):
        work(plan)
    assert set(survey(plan).values()) == {State.LEFT}
    assert not list(out.rglob("*.partial*"))


def test_a_missing_network_is_one_line(folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(out), "--checkpoint", "nosuch", "--workers", "1", "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert said.count("unknown checkpoint") == 1 and "Traceback" not in said
    assert not any(path.is_file() and path.suffix != ".lock" for path in out.rglob("*"))


def test_an_output_folder_that_cannot_be_made_is_one_line(folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out.write_text("a file")
    assert main([str(folder), "--out", str(out), "--workers", "1", "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said and re.search(rf"^\[Errno \d+\].*{out.name}", said, re.MULTILINE)


@pytest.mark.parametrize("text", ["[]", "null", '"done"', '{"settings": []}', '{"settings": {}}', "{", ""])
def test_a_summary_of_something_else_is_no_result(folder: Path, out: Path, text: str) -> None:
    plan = plan_of(folder, out)
    plan.jobs[0].folder.mkdir(parents=True)
    (plan.jobs[0].folder / "summary.json").write_text(text)
    assert plan.state(plan.jobs[0]) is State.LEFT


def test_the_watch_says_how_long_it_takes(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("app.many.report.FIRST_S", 0.05)
    plan = plan_of(folder, out)
    with Watch(plan):
        work(plan)
        wait_for(lambda: "6 of 6 videos, 100% of their bytes" in caplog.text)
    assert re.search(r"[1-5] of 6 videos, \d+% of their bytes, \d+ s, about \d+ s left", caplog.text)


def test_the_table_stands_what_others_do_meanwhile(folder: Path, out: Path) -> None:
    plan = plan_of(folder, out)
    work(plan)
    plan.jobs[5].record_failure("no disk", plan.wanted(plan.jobs[5]))
    before, after = dict.fromkeys(plan.jobs, State.LEFT), survey(plan) | {plan.jobs[5]: State.FAILED}
    (plan.jobs[0].folder / "summary.json").unlink()  # another worker puts its own in place
    (plan.jobs[1].folder / "summary.json").write_text("{")
    plan.jobs[5].failure.unlink()
    shown = table(before, after, 2.0)
    assert "frames now" in shown and " 36  in 2 s" in shown
    assert "None" not in shown
