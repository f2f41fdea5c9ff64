"""Which videos a folder or a list holds, and who does which."""

from collections import Counter
from pathlib import Path

import pytest

from app.many.videos import find_jobs, shard
from core.errors import InputError
from tests.app.many.engine import plan_of
from tests.app.many.working import NAMES, work
from tests.app.media import write_video


def test_names_of_videos(folder: Path, out: Path) -> None:
    jobs = find_jobs([folder], out)
    assert {job.name for job in jobs} == set(NAMES)
    assert [job.num_bytes for job in jobs] == sorted((job.num_bytes for job in jobs), reverse=True)
    assert {job.folder for job in jobs} == {out / name for name in NAMES}
    elsewhere = {job.name for job in find_jobs([folder], folder / "day 1")}
    assert elsewhere == set(NAMES) - {"day 1/b.mp4", "day 1/c.mkv"}, "results are no videos"
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
