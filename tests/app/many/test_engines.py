"""Workers of a machine, GPUs in turn, Ray, and the command line."""

import errno
import re
import signal
import threading
from dataclasses import fields, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from app.config import LiveConfig
from app.many.__main__ import main, run
from app.many.engines import Pool, visible_gpus
from app.many.plan import FLAGS, Plan
from app.many.worker import MAX_TRIES
from core.errors import InputError
from tests.app.many.engine import DIES_WITH, open_fake_engine, open_slower_engine, plan_of
from tests.app.many.working import check_all_finished
from tests.app.media import write_video


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
