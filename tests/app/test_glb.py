"""people.glb read back by what the glTF specification says, and compared with meshes.npz in time."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.colors import track_color
from app.export import SinkGroup
from app.export.glb import MAX_KEYS, key_frames, preview_mesh, thinned, write_glb
from app.export.gltf import held
from app.export.npz import NpzSink, map_rows
from app.visibility import body_joint_weights
from core.bodies import load_body
from core.errors import InputError
from tests.app.gltf_player import Played
from tests.app.media import SPHERE_VERTICES_M, mesh, recording, scene

TO_GLTF = np.array([1, -1, -1])


def moving(index: int, track_id: int):
    """A ball that runs in a curve and swells; not in a straight line between any two frames. Each on a floor of its own."""
    phase = index / 8 + track_id
    size = 1 + 0.2 * np.sin(phase)
    place = (0.5 * np.cos(phase), 0.2 * np.sin(phase) + 2 * (track_id - 1), 3.0 + 0.5 * np.sin(phase / 2) + track_id)
    joints_m = np.float32(size) * mesh().joints_m
    return mesh(track_id, place, vertices_m=SPHERE_VERTICES_M * np.float32(size), joints_m=joints_m)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Person 1 all the time, person 2 in frames 30 to 59 and again from 90 on; 30 frames/s from 0.5 s on."""
    with NpzSink(recording(tmp_path)) as sink:
        for i in range(120):
            people = [moving(i, 1)] + ([moving(i, 2)] if 30 <= i < 60 or i >= 90 else [])
            sink.write(scene(*people, index=i, time_s=0.5 + i / 30))
    return sink.path


def test_vertices_in_time_are_those_of_the_npz(rows: Path) -> None:
    report = write_glb(rows, rows.with_name("people.glb"))
    played = Played(rows.with_name("people.glb"))
    data = np.load(rows)
    errors_m = []
    for frame in range(120):
        now = data["frame_index"] == frame
        time_s = data["time_s"][now][0]
        seen = played.people(time_s + 1e-4)
        assert set(seen) == {f"person {track}" for track in data["track_id"][now]}
        at = played.people(time_s) or seen
        for track, vertices_m, place_m in zip(data["track_id"][now], data["vertices_m"][now], data["translation_m"][now], strict=True):
            want = (vertices_m + place_m) * TO_GLTF
            errors_m.append(np.linalg.norm(at.get(f"person {track}", seen[f"person {track}"]) - want, axis=1).max())
    errors_m = np.array(errors_m)
    assert errors_m.max() < 0.03
    assert (errors_m < 1e-5).sum() > 0.3 * len(errors_m)  # the key frames themselves
    assert report.error_m[1] < 0.03
    assert played.people(0.5 + 70 / 30).keys() == {"person 1"}
    assert played.people(10.0).keys() == set()


def test_it_is_sound_gltf_and_people_have_their_colours(rows: Path) -> None:
    report = write_glb(rows, rows.with_name("people.glb"))
    played = Played(rows.with_name("people.glb"))
    tree = played.tree
    assert tree["asset"]["version"] == "2.0"
    assert not tree.get("extensionsRequired")
    assert report.num_bytes == rows.with_name("people.glb").stat().st_size
    assert report.num_people == 2
    for number, material in zip((1, 2), tree["materials"], strict=True):
        linear = np.array(material["pbrMetallicRoughness"]["baseColorFactor"])[:3]
        np.testing.assert_allclose(linear ** (1 / 2.2) * 255, track_color(number), atol=1)
    for shape in tree["meshes"]:
        faces = played.array(shape["primitives"][0]["indices"]).reshape(-1, 3)
        points = played.array(shape["primitives"][0]["attributes"]["POSITION"])
        assert faces.max() < len(points)
        outward = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
        normals = played.array(shape["primitives"][0]["attributes"]["NORMAL"])[faces[:, 0]]
        assert (np.einsum("ij,ij->i", outward, normals) > -1e-9).all()
        assert len(shape["primitives"][0].get("targets") or []) < MAX_KEYS
        weights = shape.get("weights") or []
        assert len(weights) == len(shape["primitives"][0].get("targets") or [])
    space = played.world(len(tree["nodes"]) - 1, 0.0)
    lowest = [(points @ space[:3, :3].T + space[:3, 3])[:, 1].min() for points in played.people(2.0).values()]
    assert abs(min(lowest)) < 0.6


def test_the_file_stays_small(rows: Path) -> None:
    free = write_glb(rows, rows.with_name("free.glb"))
    tight = write_glb(rows, rows.with_name("tight.glb"), max_bytes=free.num_bytes // 3)
    assert tight.num_bytes <= free.num_bytes // 3 * 1.1
    assert tight.error_m[0] > free.error_m[0]


def test_long_motions_come_in_stretches_that_join(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        for i in range(600):
            sink.write(scene(moving(i, 1), index=i))
    write_glb(sink.path, tmp_path / "people.glb")
    played = Played(tmp_path / "people.glb")
    assert len(played.tree["meshes"]) > 2
    data = np.load(sink.path)
    for row in range(0, 600, 7):
        want = (data["vertices_m"][row] + data["translation_m"][row]) * TO_GLTF
        np.testing.assert_allclose(played.people(data["time_s"][row])["person 1"], want, atol=0.03)


def test_one_frame_is_a_still(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        sink.write(scene(moving(3, 1)))
    write_glb(sink.path, tmp_path / "people.glb")
    want = (moving(3, 1).vertices_m + moving(3, 1).translation_m) * TO_GLTF
    np.testing.assert_allclose(Played(tmp_path / "people.glb").people(0.0)["person 1"], want, atol=1e-5)


def test_times_before_zero_become_zero(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        for i in range(4):
            sink.write(scene(moving(i, 1), index=i, time_s=-0.02 + i / 30))
    write_glb(sink.path, tmp_path / "people.glb")
    played = Played(tmp_path / "people.glb")
    assert min(times_s.min() for times_s, _, _ in played.channels.values()) == 0
    want = (moving(3, 1).vertices_m + moving(3, 1).translation_m) * TO_GLTF
    np.testing.assert_allclose(played.people(0.1)["person 1"], want, atol=1e-5)


def test_the_camera_jumps_from_view_to_view_also_where_nobody_is_seen(tmp_path: Path) -> None:
    """A second in which it pans, ten without anybody, and a second of another view."""
    pan = Rotation.from_euler("y", np.linspace(0, 20, 30)[:, None], degrees=True).as_matrix()
    with NpzSink(recording(tmp_path, camera_turns=True)) as sink:
        for i in range(30):
            sink.write(replace(scene(moving(i, 1), index=i), start_from_camera=pan[i]))
        for i in range(330, 360):
            sink.write(replace(scene(moving(i, 1), index=i), start_from_camera=np.eye(3), view=1))
    write_glb(sink.path, tmp_path / "people.glb")
    played = Played(tmp_path / "people.glb")
    camera = next(index for index, node in enumerate(played.tree["nodes"]) if "camera" in node)
    ends, waits, still_waits, begins = (played.world(camera, time_s) for time_s in (29 / 30, 6.0, 11 - 0.002, 11 + 1e-5))
    np.testing.assert_allclose(waits, ends, atol=1e-6)
    np.testing.assert_allclose(still_waits, ends, atol=1e-6)
    assert np.degrees(Rotation.from_matrix(begins[:3, :3].T @ ends[:3, :3]).magnitude()) > 10
    np.testing.assert_allclose(played.world(camera, 11.5), begins, atol=1e-6)


@pytest.mark.parametrize(
    ("times_s", "keys"),
    [([0, 1, 3, 4], [0, 1, 1, 2, 3]), ([0, 20000, 20000.01, 20000.02], [0, 1, 1, 2, 3]), ([0, 1, 1.0005, 2], [0, 1, 2, 3])],
)
def test_keys_that_hold_a_view_come_in_order(times_s: list[float], keys: list[int]) -> None:
    held_s, kept = held(np.float32(times_s), np.array([0, 0, 2, 2]))
    assert kept.tolist() == keys
    assert held_s.dtype == np.float32 and (np.diff(held_s) > 0).all()
    assert set(np.float32(times_s)) <= set(held_s)


def test_nobody_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        sink.write(scene())
    with pytest.raises(InputError, match="nobody was found"):
        write_glb(sink.path, tmp_path / "people.glb")
    assert not (tmp_path / "people.glb").exists()


def test_as_a_sink(tmp_path: Path) -> None:
    with SinkGroup(recording(tmp_path), ("meshes.npz", "people.glb", "summary.json")) as sinks:
        for i in range(10):
            sinks.write(scene(moving(i, 4), index=i))
    assert Played(tmp_path / "people.glb").people(0.1).keys() == {"person 4"}
    with SinkGroup(recording(tmp_path / "empty"), ("meshes.npz", "people.glb", "summary.json")) as sinks:
        sinks.write(scene())
    assert "no people.glb" in json.loads((tmp_path / "empty" / "summary.json").read_text())["warnings"][0]


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), RuntimeError("a bug")])
def test_without_all_of_the_rows_there_is_none_not_even_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fail(*_: object) -> None:
        raise trouble

    def write() -> None:
        with SinkGroup(recording(tmp_path), ("meshes.npz", "people.glb", "summary.json")) as sinks:
            sinks.write(scene(moving(0, 4)))

    write()
    monkeypatch.setattr(NpzSink, "_write_zip", fail)
    with pytest.raises(type(trouble), match=trouble.args[-1]):
        write()
    assert (tmp_path / "meshes.npz").exists(), "the earlier one"
    assert not (tmp_path / "people.glb").exists()
    assert "no people.glb: not all of the run could be written" in json.loads((tmp_path / "summary.json").read_text())["warnings"]


def test_where_nobody_is_an_earlier_file_goes(tmp_path: Path) -> None:
    for people in ([moving(0, 4)], []):
        with SinkGroup(recording(tmp_path), ("meshes.npz", "people.glb", "summary.json")) as sinks:
            sinks.write(scene(*people))
    assert not (tmp_path / "people.glb").exists()


def test_the_default_bodys_preview_is_its_intermediate_mesh() -> None:
    preview = preview_mesh("anny", 13718, np.zeros((1, 3), np.int32))
    assert (len(preview.ids), preview.faces.max(), preview.weights.shape) == (1723, 1722, (1723, 14))
    everything = preview_mesh("anny", 30, np.array([[0, 1, 29]]))
    assert len(everything.ids) == 30


@pytest.mark.parametrize("show_hidden", [False, True])
def test_legs_out_of_the_picture_are_not_in_the_preview(tmp_path: Path, show_hidden: bool) -> None:
    body = load_body("anny")
    template_m = body.levels.template_m
    half = np.array([0, 0, 1, 1, 0, 0] + [1] * 8, np.float32)
    with NpzSink(recording(tmp_path, faces=body.faces, vertex_joint_weights=body_joint_weights(body))) as sink:
        for i in range(5):
            sink.write(scene(mesh(1, (0.1 * i, 0, 3), half, vertices_m=template_m), index=i))
    write_glb(sink.path, tmp_path / "people.glb", show_hidden=show_hidden)
    played = Played(tmp_path / "people.glb")
    points = played.people(0.0)["person 1"]
    faces = played.array(played.tree["meshes"][0]["primitives"][0]["indices"]).ravel()
    knee_m, ankle_m = (np.asarray(body.joint_regressor @ template_m)[joint, 1] for joint in (1, 0))
    lowest_m = -points[faces, 1].min()
    assert lowest_m > ankle_m if show_hidden else 0 < lowest_m < knee_m - 0.1


def test_somebody_wholly_hidden_is_not_there(tmp_path: Path) -> None:
    body = load_body("anny")
    for name, visibilities in (("one", (0.0, 1.0)), ("none", (0.0, 0.0))):
        (tmp_path / name).mkdir()
        with NpzSink(recording(tmp_path / name, faces=body.faces, vertex_joint_weights=body_joint_weights(body))) as sink:
            for i in range(3):
                people = [mesh(1 + j, (j, 0, 3), seen, vertices_m=body.levels.template_m) for j, seen in enumerate(visibilities)]
                sink.write(scene(*people, index=i))
    write_glb(tmp_path / "one" / "meshes.npz", tmp_path / "people.glb")
    assert Played(tmp_path / "people.glb").people(0.0).keys() == {"person 2"}
    with pytest.raises(InputError, match="everybody is hidden"):
        write_glb(tmp_path / "none" / "meshes.npz", tmp_path / "none.glb")


def test_key_frames_keep_lines_within_the_tolerance() -> None:
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.05, 200))
    points_m = np.stack([np.cos(3 * times_s), np.sin(2 * times_s), times_s], axis=1)[:, None]
    for tolerance_m in (0.1, 0.01):
        keys = key_frames(times_s, points_m, tolerance_m)
        lines = np.stack([np.interp(times_s, times_s[keys], points_m[keys, 0, axis]) for axis in range(3)], axis=1)
        assert np.linalg.norm(lines - points_m[:, 0], axis=1).max() <= tolerance_m
        assert len(keys) < 120
    assert key_frames(times_s, np.zeros((200, 1, 3)), 0.01).tolist() == [0, 199]
    assert np.diff(times_s[thinned(times_s, 0.1)[:-1]]).min() >= 0.1 - 1e-6


def test_rows_are_mapped_not_read(rows: Path, tmp_path: Path) -> None:
    mapped = map_rows(rows, "vertices_m")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, np.load(rows)["vertices_m"])
    np.savez_compressed(tmp_path / "small.npz", vertices_m=mapped[:3])
    np.testing.assert_array_equal(map_rows(tmp_path / "small.npz", "vertices_m"), mapped[:3])
