"""Recorded sessions: what goes in comes out, also after kill -9 and from files cut anywhere; nothing is overwritten."""

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from app.export import Parameters
from app.rate import FALLBACK_FPS
from app.session import MAX_WAITING, SessionReader, SessionRecorder, new_session_path
from app.session_format import BACKGROUND_RGB, MESH_FIELDS, SessionInfo
from app.types import Scene
from core.errors import InputError
from core.geometry import project_pinhole
from tests.app.media import SPHERE_JOINTS_M, mesh, quarter_picture, scene
from tests.toy import ToyBody

BODY = ToyBody()
INFO = SessionInfo.of(BODY, {"checkpoint": "toy"})
TEMPLATE_M = BODY.levels.template_m


def person(track_id: int, seed: int, **changes: object):
    """Somebody stretched and turned: what the toy's up-sampling says exactly."""
    random = np.random.default_rng(seed)
    vertices_m = TEMPLATE_M @ (np.eye(3) + random.normal(0, 0.2, (3, 3))).astype(np.float32)
    values = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in MESH_FIELDS.items() if shape}
    return mesh(track_id, score=0.5, vertices_m=vertices_m, **(values | changes))


def record(path: Path, scenes: list[Scene], info: SessionInfo = INFO, pictures: bool = False) -> SessionRecorder:
    with SessionRecorder(path, info, pictures) as recorder:
        for number, one in enumerate(scenes):
            recorder.write(one)
            while recorder.num_frames + MAX_WAITING // 2 < number and recorder.problem is None:  # quicker than a camera
                time.sleep(0.001)
    assert recorder.problem is None
    assert recorder.num_dropped == 0
    return recorder


def walk(num_frames: int, start_s: float = 100.0) -> list[Scene]:
    return [scene(*(person(t, 100 * i + t) for t in range(i % 3)), index=i, time_s=start_s + i / 30) for i in range(num_frames)]


def test_round_trip(tmp_path: Path) -> None:
    scenes = walk(9)
    record(tmp_path / "new" / "a.arrows", scenes)
    reader = SessionReader(tmp_path / "new" / "a.arrows")
    assert (reader.num_frames, reader.size_px, reader.has_pictures, reader.warning) == (9, (64, 48), False, None)
    assert reader.fps == pytest.approx(30)
    for _ in range(2):
        back = list(reader)
        assert len(back) == 9
        for index, (before, after) in enumerate(zip(scenes, back, strict=True)):
            assert (after.frame.index, after.frame.size_px) == (index, before.frame.size_px)
            assert after.frame.time_s == pytest.approx(before.frame.time_s - 100)
            assert (after.intrinsics, after.timings_ms) == (before.intrinsics, pytest.approx(before.timings_ms))
            assert [m.track_id for m in after.meshes] == [m.track_id for m in before.meshes]
            for one, other in zip(before.meshes, after.meshes, strict=True):
                np.testing.assert_allclose(other.vertices_m, one.vertices_m, atol=2e-4)
                for name in MESH_FIELDS:
                    np.testing.assert_array_equal(getattr(other, name), np.float32(getattr(one, name)), err_msg=name)
    np.testing.assert_array_equal(reader.info.faces, BODY.faces)
    np.testing.assert_array_equal(reader.info.vertex_joint_weights, INFO.vertex_joint_weights)
    assert (reader.info.body, reader.info.settings) == ("toy", {"checkpoint": "toy"})


@pytest.mark.parametrize(("times_s", "fps"), [
    ([100.0, 100.05, 100.1, 400.0, 400.05, 400.1], 20.0),  # the camera was away
    ([100.0], FALLBACK_FPS),
])  # fmt: skip
def test_a_pause_does_not_change_the_rate(tmp_path: Path, times_s: list[float], fps: float) -> None:
    record(tmp_path / "a.arrows", [scene(index=i, time_s=time_s) for i, time_s in enumerate(times_s)])
    reader = SessionReader(tmp_path / "a.arrows")
    assert reader.fps == pytest.approx(fps)
    assert reader.duration_s == pytest.approx(times_s[-1] - times_s[0])


def test_any_arrow_library_reads_it(tmp_path: Path) -> None:
    record(tmp_path / "a.arrows", walk(5))
    table = pa.ipc.open_stream((tmp_path / "a.arrows").read_bytes()).read_all()
    assert table["frame_index"].to_pylist() == [0, 1, 2, 3, 4]
    assert [len(people) for people in table["meshes"].to_pylist()] == [0, 1, 2, 0, 1]


def test_pictures_are_kept_when_asked_for(tmp_path: Path) -> None:
    scenes = [scene(image=quarter_picture(64, 48, i), index=i) for i in range(3)]
    record(tmp_path / "with.arrows", scenes, pictures=True)
    record(tmp_path / "without.arrows", scenes)
    seen = SessionReader(tmp_path / "with.arrows")
    assert seen.has_pictures
    for before, after in zip(scenes, seen, strict=True):
        assert np.abs(after.frame.image.astype(int) - before.frame.image).mean() < 6
    plain = next(iter(SessionReader(tmp_path / "without.arrows"))).frame.image
    assert (plain == BACKGROUND_RGB).all()


def test_body_parameters(tmp_path: Path) -> None:
    turned = {"rotmats": np.eye(3, dtype=np.float32)[None] * 2, "shape": np.array([0.25], np.float32)}
    info = SessionInfo.of(BODY, parametric=True)
    record(tmp_path / "a.arrows", [scene(person(1, 0, **turned)), scene(index=1)], info)
    reader = SessionReader(tmp_path / "a.arrows")
    assert reader.info.parameters == Parameters(("rotmats", "stretch"), 1, 1, {})
    first = next(iter(reader)).meshes[0]
    np.testing.assert_array_equal(first.rotmats, turned["rotmats"])
    np.testing.assert_array_equal(first.shape, turned["shape"])


def test_the_default_body_comes_back_to_a_few_millimetres() -> None:
    from app.session_format import row_of, scene_of, schema_of
    from core.bodies import load_body

    body = load_body("anny")
    info = SessionInfo.of(body)
    schema = schema_of(info, "now")
    surface_m = np.asarray(body.levels.upsample[1] @ body.levels.template_m[info.kept_ids], np.float32)  # as the network says it
    surface_m -= np.float32([0.1, 0.2, -0.3])
    one = scene(mesh(vertices_m=surface_m))
    row = row_of(one, info, schema, None, first=False)
    error_m = np.linalg.norm(scene_of(row, info, one.frame.image, 0, 0.0).meshes[0].vertices_m - surface_m, axis=1)
    assert error_m.max() < 0.003
    assert error_m.mean() < 0.0003
    assert row.nbytes < 12_000


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.arrows"
    record(path, walk(3))
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        SessionRecorder(path, INFO)
    assert path.read_bytes() == before
    from tests.app.launching import outcome

    code, out, err = outcome(capsys, "--webcam", "nothing.mp4", "--headless", "--record", path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "exists already" in err  # said first, before the source is opened
    first = new_session_path(tmp_path)
    first.touch()
    assert not new_session_path(tmp_path).exists()


def test_a_body_that_does_not_fit_ends_the_recording_and_not_the_session(tmp_path: Path) -> None:
    with SessionRecorder(tmp_path / "a.arrows", INFO) as recorder:
        recorder.write(scene(person(0, 0)))
        recorder.write(scene(mesh(), index=1))
        recorder.write(scene(person(0, 0), index=2))
    assert "got a mesh of 384 vertices, expected 30" in recorder.problem
    reader = SessionReader(tmp_path / "a.arrows")
    assert reader.num_frames == 1
    assert "ends early" in reader.warning


def test_a_slow_disk_drops_frames_and_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = SessionRecorder(tmp_path / "a.arrows", INFO)
    write = recorder._write
    monkeypatch.setattr(recorder, "_write", lambda one: (time.sleep(0.02), write(one)))
    start_s = time.perf_counter()
    for index in range(60):
        recorder.write(scene(index=index))
    assert time.perf_counter() - start_s < 0.5
    recorder.close()
    assert recorder.num_dropped > 40
    assert recorder.num_frames + recorder.num_dropped == 60
    assert SessionReader(recorder.path).num_frames == recorder.num_frames


def test_a_disk_that_does_not_answer_lets_the_session_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.session.CLOSE_S", 0.05, raising=False)
    recorder, answers = SessionRecorder(tmp_path / "a.arrows", INFO), threading.Event()
    write = recorder._write
    monkeypatch.setattr(recorder, "_write", lambda one: (answers.wait(60), write(one)))
    for index in range(2 * MAX_WAITING):
        recorder.write(scene(index=index))
    closing = threading.Thread(target=recorder.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    assert recorder.problem == f"the recording {recorder.path} stopped after 0 frames: the disk does not answer"
    answers.set()
    assert recorder._writing.wait(10)
    assert "ends early" in SessionReader(recorder.path).warning


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """A child with a limit on its files' size: writing fails half-way through a batch."""
    child = CHILD.replace(
        "LIMIT",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    )
    done = subprocess.run(  # noqa: PLW1510 - the test looks itself
        [sys.executable, "-c", child, str(tmp_path / "a.arrows"), "200"], capture_output=True, text=True, timeout=60
    )
    assert "stopped after" in done.stdout, done.stderr
    assert done.stdout.split()[-1] == "False", "pandas was imported, which takes a second in the middle of a live session"
    reader = SessionReader(tmp_path / "a.arrows")
    assert reader.num_frames > 10
    assert len(list(reader)) == reader.num_frames


CHILD = """
import signal, sys, time
from pathlib import Path
LIMIT
from app.session import SessionRecorder
from tests.app.test_session import INFO, person, scene
recorder = SessionRecorder(Path(sys.argv[1]), INFO)
start_s = time.perf_counter()
for index in range(int(sys.argv[2])):
    recorder.write(scene(person(0, index), index=index, time_s=time.perf_counter() - start_s))
    print(index, time.perf_counter() - start_s, flush=True)
    time.sleep(1 / 60)
    if recorder.problem:
        print(recorder.problem, flush=True)
        break
recorder.close()
print("pandas" in sys.modules)
"""


def test_after_kill_9_the_file_opens_and_less_than_a_second_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    child = subprocess.Popen([sys.executable, "-c", CHILD.replace("LIMIT", ""), str(path), "100000"], stdout=subprocess.PIPE, text=True)
    try:
        last_s = 0.0
        for line in child.stdout:
            last_s = float(line.split()[1])
            if last_s > 1.5:
                break
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.wait()
    reader = SessionReader(path)
    times_s = [one.frame.time_s for one in reader]
    assert last_s - times_s[-1] < 1.0
    assert len(times_s) == reader.num_frames > 3
    assert "ends early" in reader.warning


def test_a_file_cut_anywhere_gives_its_whole_frames_or_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.arrows"
    record(whole, walk(12))
    data = whole.read_bytes()
    cut = tmp_path / "cut.arrows"
    counts, messages = [], []
    for size in [*range(1, len(data), 997), *range(len(data) - 40, len(data))]:
        cut.write_bytes(data[:size])
        try:
            reader = SessionReader(cut)
        except InputError as error:
            messages.append(str(error))
            counts.append(0)
            continue
        assert "ends early" in reader.warning
        counts.append(len(list(reader)))
        assert counts[-1] == reader.num_frames
    assert all(str(cut) in message and "\n" not in message for message in messages)
    assert counts == sorted(counts)
    assert counts[-1] == 12
    assert len(set(counts)) > 8


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    """In a child of its own, since native code reads these bytes."""
    record(tmp_path / "whole.arrows", walk(6), pictures=True)
    program = """
import sys
from pathlib import Path
import numpy as np
from app.session import SessionReader
from core.errors import InputError
data = np.frombuffer(Path(sys.argv[1]).read_bytes(), np.uint8)
random, read, refused = np.random.default_rng(0), 0, 0
for _ in range(400):
    damaged = data.copy()
    damaged[random.integers(0, len(data), 8)] = random.integers(0, 256, 8)
    Path(sys.argv[2]).write_bytes(damaged.tobytes())
    try:
        read += len(list(SessionReader(sys.argv[2])))
    except InputError:
        refused += 1
print(read, refused)
"""
    arguments = [sys.executable, "-c", program, str(tmp_path / "whole.arrows"), str(tmp_path / "damaged.arrows")]
    done = subprocess.run(  # noqa: PLW1510 - the test looks itself
        arguments, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert read > 0
    assert refused > 0


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xff\xff\xff", b"\x89PNG\r\n\x1a\n" * 50, bytes(5000)])
def test_foreign_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.arrows"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.arrows: (empty|not a recorded session)[^\n]*--record"):
        SessionReader(path)


def test_other_arrow_files_and_missing_ones_are_one_line(tmp_path: Path) -> None:
    batch = pa.record_batch({"x": [1, 2]})
    with pa.OSFile(str(tmp_path / "a.arrows"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    for path, said in ((tmp_path / "a.arrows", "not a recorded session"), (tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=said):
            SessionReader(path)


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    people = [person(t, t) for t in range(3)]
    recorder = SessionRecorder(tmp_path / "a.arrows", INFO)
    before_bytes = pa.total_allocated_bytes()
    tracemalloc.start()
    for index in range(2000):
        recorder.write(scene(*people, index=index))
        while recorder.num_frames + 4 < index and recorder.problem is None:
            time.sleep(0.0005)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    recorder.close()
    size_bytes = recorder.path.stat().st_size
    assert size_bytes > 3_000_000
    assert peak_bytes + pa.total_allocated_bytes() - before_bytes < 1_000_000


def test_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    big = scene(person(1, 1), image=quarter_picture(128, 128), index=1, focal_px=400.0)
    record(tmp_path / "a.arrows", [scene(person(1, 0)), big])
    first, second = SessionReader(tmp_path / "a.arrows")
    assert second.frame.size_px == first.frame.size_px == (64, 48)
    assert second.intrinsics == first.intrinsics


@pytest.mark.parametrize("focal_px", [150.0, 400.0])
def test_after_another_size_people_are_still_where_the_first_camera_sees_them(tmp_path: Path, focal_px: float) -> None:
    place_m = np.array([0.2, -0.1, 3.0], np.float32)
    joints_px = project_pinhole(SPHERE_JOINTS_M + place_m, focal_px, (64, 64)).astype(np.float32)
    someone = person(1, 1, joints_m=SPHERE_JOINTS_M, translation_m=place_m, joints_px=joints_px)
    record(tmp_path / "a.arrows", [scene(), scene(someone, image=quarter_picture(128, 128), index=1, focal_px=focal_px)])
    first, second = SessionReader(tmp_path / "a.arrows")
    (seen,) = second.meshes
    camera = first.intrinsics.focal_px, first.intrinsics.principal_px
    np.testing.assert_allclose(project_pinhole(seen.joints_m + seen.translation_m, *camera), seen.joints_px, atol=1e-3)
    np.testing.assert_allclose(seen.joints_px, joints_px * (48 / 128) + (8, 0), atol=0.3)
    np.testing.assert_allclose(seen.translation_m, place_m * (1, 1, first.intrinsics.focal_px / (focal_px * 48 / 128)), rtol=0.02)
