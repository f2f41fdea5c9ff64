"""Folders of videos: each once, by several processes, whatever kills them."""

import errno
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

import app.jobs
from app.config import LiveConfig
from app.jobs import Engine
from app.many import worker
from app.many.__main__ import main, run
from app.many.engines import ENGINES, Pool, visible_gpus
from app.many.plan import FLAGS, Plan, State
from app.many.report import Watch, survey, table
from app.many.videos import find_jobs, shard
from app.many.worker import MAX_TRIES, Worker, claimed
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.many_engine import DIES_WITH, open_fake_engine, open_slower_engine, plan_of
from tests.app.media import write_video

NAMES = ("a.mp4", "a.mov", "day 1/b.mp4", "day 1/c.mkv", "day 2/b.mp4", "ü.avi")
PATIENCE_S = 300.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of 12 frames, and what is none."""
    for index, name in enumerate(NAMES):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, (96, 64 + 2 * index), [i / 30 for i in range(12)])
    for name in ("._a.mp4", "notes.txt", ".hidden/x.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("nothing")
    return tmp_path / "videos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def work(plan: Plan, stop: threading.Event | None = None) -> None:
    Worker(plan, stop or threading.Event()).run()


def start_worker(folder: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.app.many_engine", str(folder), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def times_done(said: str) -> Counter:
    return Counter(re.findall(r"^(.+): \d+ frames, ", said, re.MULTILINE))


def wait_for(condition: object) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


def check_all_finished(plan: Plan) -> None:
    assert {job.name: state for job, state in survey(plan).items()} == dict.fromkeys((job.name for job in plan.jobs), State.FINISHED)
    for job in plan.jobs:
        assert {path.name for path in job.folder.iterdir()} == {"overlay.mp4", "meshes.npz", "summary.json"}
        assert not job.work.exists()
        with np.load(job.folder / "meshes.npz") as rows:
            assert rows["frame_index"].tolist() == list(range(12))


def test_names_of_videos(folder: Path, out: Path) -> None:
    jobs = find_jobs([folder], out)
    assert {job.name for job in jobs} == set(NAMES)
    assert [job.num_bytes for job in jobs] == sorted((job.num_bytes for job in jobs), reverse=True)
    assert {job.folder for job in jobs} == {out / name for name in NAMES}
    assert {job.name for job in find_jobs([folder], folder / "day 1")} == set(NAMES) - {
        "day 1/b.mp4",
        "day 1/c.mkv",
    }  # results are no videos
    listed = folder / "list.txt"
    listed.write_text(f"# two, and one elsewhere\nday 1/b.mp4\n\n  ./day 2/../a.mp4\n{out}/gone.mp4\n", encoding="utf-8")
    assert {job.name for job in find_jobs([listed], out)} == {"day 1/b.mp4", "a.mp4", f"{out}/gone.mp4".lstrip("/")}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_may_begin_with_a_mark_of_its_encoding(folder: Path, out: Path, encoding: str) -> None:
    listed = folder / "list.txt"
    listed.write_text("a.mp4\nü.avi\n", encoding=encoding)
    assert {job.name for job in find_jobs([listed], out)} == {"a.mp4", "ü.avi"}


def test_names_that_do_not_go(folder: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would both become"):
        find_jobs([folder / "day 1" / "b.mp4", folder / "day 2" / "b.mp4"], out)
    with pytest.raises(InputError, match="own folder"):
        find_jobs([folder], folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nosuch: no such file or folder; expected a folder of videos"):
        find_jobs([folder, tmp_path / "nosuch"], out)
    assert "gone.mp4" in {job.name for job in find_jobs([folder, tmp_path / "gone.mp4"], out)}
    with pytest.raises(InputError, match="no videos"):
        find_jobs([tmp_path / "empty"], out)


@pytest.mark.parametrize("where", ["old results", "a link to them", "listed"])
def test_results_are_no_videos(folder: Path, out: Path, caplog: pytest.LogCaptureFixture, where: str) -> None:
    caplog.set_level("INFO")
    old = folder / "results"
    work(plan_of(folder / "day 1", old))
    killed = folder / "killed" / "clip"
    killed.mkdir(parents=True)
    (killed / "overlay.partial.mp4").touch()
    (killed / "meshes.partial.npz").touch()
    write_video(folder / "overlay.mp4")  # somebody's own, of that name
    if where == "a link to them":
        out.symlink_to(old)
    source = folder
    if where == "listed":
        source = folder / "list.txt"
        results = [path.relative_to(folder).as_posix() for path in folder.rglob("overlay*.mp4")]
        source.write_text("\n".join([*NAMES, *results]), encoding="utf-8")
    caplog.clear()
    assert {job.name for job in find_jobs([source], out)} == {*NAMES, "overlay.mp4"}
    (said,) = [line for line in caplog.messages if "left out" in line]
    assert said.startswith("3 video(s) left out") and "overlay" in said
    with pytest.raises(InputError, match="no videos but results of this app"):
        find_jobs([old], out)


def test_shards_are_a_partition(folder: Path, out: Path) -> None:
    jobs = find_jobs([folder], out)
    parts = [shard(jobs, index, 3) for index in (1, 2, 3)]
    assert Counter(job.name for part in parts for job in part) == Counter(NAMES)
    assert shard(jobs[2:], 1, 3) == tuple(job for job in parts[0] if job in jobs[2:])


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


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine without processes of its own."""

    def run_here(plan: Plan, pool: Pool, stop: threading.Event) -> list[str]:
        work(plan, stop)
        return []

    monkeypatch.setitem(ENGINES._entries, "here", run_here)
    return "here"


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
    (plan.jobs[0].folder / "people.glb").touch()
    (plan.jobs[0].folder / "notes.txt").touch()
    work(replace(other, redo_changed=True))
    assert set(survey(other).values()) == {State.FINISHED}
    assert {path.name for path in plan.jobs[0].folder.iterdir()} == {"overlay.mp4", "meshes.npz", "summary.json", "notes.txt"}
    assert set(survey(replace(other, config=replace(other.config, device="cuda"))).values()) == {State.FINISHED}
    write_video(folder / "a.mp4", (96, 64), [0.0, 0.1])
    assert Counter(survey(other).values()) == {State.FINISHED: 5, State.CHANGED: 1}


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
    plan.jobs[5].record_failure("no disk")
    before, after = dict.fromkeys(plan.jobs, State.LEFT), survey(plan) | {plan.jobs[5]: State.FAILED}
    (plan.jobs[0].folder / "summary.json").unlink()  # another worker puts its own in place
    (plan.jobs[1].folder / "summary.json").write_text("{")
    plan.jobs[5].failure.unlink()
    shown = table(before, after, 2.0)
    assert "frames now" in shown and " 36  in 2 s" in shown
    assert "None" not in shown


def test_a_worker_that_cannot_be_started_leaves_none(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(process: BaseProcess) -> None:
        if started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        begin(process)

    started: list[BaseProcess] = []
    begin = SpawnProcess.start
    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(InputError, match=r"worker 2 of 3 cannot be started \(Resource temporarily unavailable\).* --workers"):
        run(plan_of(folder, out), "local", Pool(workers=3))
    assert started[0].exitcode is not None, "the first runs on"


def test_a_worker_that_cannot_be_started_again_does_not_end_the_others(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(process: BaseProcess) -> None:
        if len(started) == 2:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        started.append(process)
        begin(process)

    write_video(folder / "deadly.mp4", DIES_WITH)
    started: list[BaseProcess] = []
    begin = SpawnProcess.start
    monkeypatch.setattr(SpawnProcess, "start", start)
    assert run(plan_of(folder, out), "local", Pool(workers=2)) == 1
    assert "cannot be started (Cannot allocate memory)" in caplog.text
    assert [process.exitcode for process in started].count(-signal.SIGKILL) >= 1


def test_the_workers_of_a_machine_warn_once_of_a_slower_way(folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(plan_of(folder, out, open_engine=open_slower_engine), "local", Pool(workers=2)) == 0
    said = capfd.readouterr().err
    assert said.count("a worker has its network") == 2
    assert said.count("which is slower") == 1


def test_status_changes_nothing(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(out), "--status"]) == 0
    assert re.search(r"^left\s+6$", capsys.readouterr().out, re.MULTILINE)
    assert not out.exists()


@pytest.mark.parametrize("arguments", [("--shard", "0/2"), ("--shard", "3/2"), ("--shard", "x"), ("--workers", "0"), ("--threads", "-1"),
    ("--gpus-per-worker", "0"), ("--max-people", "0"), ("--engine", "spark")])  # fmt: skip
def test_usage_errors_are_2(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["videos", "--out", "out", *arguments])
    assert end.value.code == 2


def test_every_setting_of_a_result_can_be_given(folder: Path, out: Path) -> None:
    with open_fake_engine(LiveConfig()) as engine:
        engine.estimator.config = type("Config", (), {"parametric": False})
        assert {item.name for item in fields(LiveConfig)} & set(engine.settings) <= set(FLAGS)
    assert set(plan_of(folder, out).wanted(plan_of(folder, out).jobs[0])) <= {*FLAGS, "file"}


def test_gpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("2,3", ["2", "3"]), ("", []), ("-1", []), ("GPU-8a,MIG-1", ["GPU-8a", "MIG-1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected


def test_workers_get_their_gpus_in_turn(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    class Noted:
        def __init__(self, plan: Plan, environments: list[dict[str, str]], stop: threading.Event) -> None:
            seen.extend(environments)

        def run(self) -> list[str]:
            return []

    monkeypatch.setattr("app.many.engines._Processes", Noted)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    plan = plan_of(folder, out)
    run(plan, "local", Pool())
    assert [item["CUDA_VISIBLE_DEVICES"] for item in seen] == ["5", "7"]
    seen.clear()
    run(plan, "local", Pool(workers=4, threads=3))
    assert [item["CUDA_VISIBLE_DEVICES"] for item in seen] == ["5", "7", "5", "7"] and {item["OMP_NUM_THREADS"] for item in seen} == {"3"}
    seen.clear()
    run(replace(plan, config=LiveConfig(device="cpu")), "local", Pool(workers=2))
    assert not any("CUDA_VISIBLE_DEVICES" in item for item in seen)


def test_ray_missing_is_one_line(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"requirements-ray\.txt"):
        run(plan_of(folder, out), "ray", Pool())


def test_ray_does_each_video_once(folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-ray.txt")
    write_video(folder / "deadly.mp4", DIES_WITH)
    plan = plan_of(folder, out)
    assert run(plan, "ray", Pool(workers=2, threads=1)) == 1
    assert f"failed: deadly.mp4: {MAX_TRIES} workers died with it" in capfd.readouterr().out
    (folder / "deadly.mp4").unlink()
    check_all_finished(plan_of(folder, out))
