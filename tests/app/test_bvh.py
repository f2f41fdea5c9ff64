"""BVH files, read back by a reader that knows nothing of how they are written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from app.export.bvh import NAMES, main, write_people
from app.export.sink import UP_FROM_CAMERA
from app.export.world import World
from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.fitters import fitter_for
from core.joints import JOINT_NAMES
from core.training.mocap import read_bvh
from core.training.pose_files import named_joints

BODY, FPS, NUM_FRAMES = AnnyBody(), 25.0, 12
FIRST = 50
"""Frame of the video in which people appear."""
MOVING = fitter_for(BODY).rig.bone_ids.tolist()
KNEES = [MOVING.index(BODY.bone_index(f"lowerleg01.{side}")) for side in "LR"]


def rows(track_id: int, phenotype: list[float], seed: int) -> dict[str, np.ndarray]:
    """Somebody who moves every bone that a fit moves, in NUM_FRAMES frames from FIRST on; knees bend as knees do."""
    random = np.random.default_rng(seed)
    swing = random.normal(0, 0.5, (len(MOVING), 3)) * np.linspace(-1, 1, NUM_FRAMES)[:, None, None]
    swing[:, KNEES] *= 0.2
    swing[:, KNEES, 0] += np.linspace(0.4, 1.4, NUM_FRAMES)[:, None]
    rotmats = fitter_for(BODY).rig.rest_rotmats.numpy()[None].repeat(NUM_FRAMES, 0)
    rotmats[:, MOVING] = Rotation.from_rotvec(swing.reshape(-1, 3)).as_matrix().reshape(NUM_FRAMES, -1, 3, 3)
    return {
        "track_id": np.full(NUM_FRAMES, track_id), "frame_index": FIRST + np.arange(NUM_FRAMES),
        "time_s": (FIRST + np.arange(NUM_FRAMES)) / FPS,
        "translation_m": np.stack([np.linspace(-1, 1, NUM_FRAMES), np.full(NUM_FRAMES, 0.2), np.full(NUM_FRAMES, 4.0)], 1),
        "bone_rotmats": rotmats, "phenotype": np.repeat([phenotype], NUM_FRAMES, 0).astype(np.float32),
    }  # fmt: skip


def table_of(people: list[dict[str, np.ndarray]], **changes: object) -> dict[str, object]:
    """What meshes.npz holds of them."""
    table = {name: np.concatenate([person[name] for person in people]) for name in people[0]}
    meshes = BODY.vertices(torch.from_numpy(table["bone_rotmats"]).float(), torch.from_numpy(table["phenotype"]))
    meshes = meshes - BODY.pelvis(meshes)[:, None]
    return table | {
        "vertices_m": meshes.numpy(), "joints_m": BODY.joints(meshes).numpy(), "faces": BODY.faces, "body": "anny", "fps": FPS,
        "joint_visibility": np.ones((len(meshes), len(JOINT_NAMES))), "focal_px": 500.0, "image_size_px": np.array([640, 480]),
    } | changes  # fmt: skip


PEOPLE = [rows(3, [0.2, 0.6, 0.5, 0.7, 0.4, 0.5], 0), rows(7, [0.8, 0.1, 0.5, 0.3, 0.5, 0.5], 1)]


def write_npz(path: Path, people: list[dict[str, np.ndarray]], **changes: object) -> Path:
    np.savez(path, **{name: value for name, value in table_of(people, **changes).items() if value is not None})
    return path


def joints_of_file(path: Path) -> tuple[list[str], np.ndarray]:
    """Names, and where each joint is in each frame (T, J, 3), in the file's axes."""
    names, parents, offsets, channels, values = read_bvh(path)
    places, turns, start = [], [], 0
    for joint, (parent, row) in enumerate(zip(parents, channels, strict=True)):
        own = values[:, start : start + len(row)]
        start += len(row)
        order = "".join(name[0] for name in row if name.endswith("rotation"))
        local = Rotation.from_euler(order, own[:, -3:], degrees=True).as_matrix()
        if parent < 0:
            places.append(own[:, :3] + offsets[joint])
            turns.append(local)
        else:
            places.append(places[parent] + turns[parent] @ np.array(offsets[joint]))
            turns.append(turns[parent] @ local)
    return names, np.stack(places, 1)


def place_m(people: list[dict[str, np.ndarray]]) -> np.ndarray:
    """(3,) where the camera stands in the files of these people, who are never upright for long, nor with planted feet."""
    table = table_of(people)
    world = World.of(table, table["vertices_m"])
    np.testing.assert_array_equal(world.camera.turn, np.eye(3))
    return world.camera.place_m


def joints_of_body(person: dict[str, np.ndarray]) -> np.ndarray:
    """The same of the body itself: the bones' heads before the camera, in the order of NAMES."""
    pose, shape = torch.from_numpy(person["bone_rotmats"]).float(), torch.from_numpy(person["phenotype"])
    _, heads, alignments = BODY.rest(shape)
    placed = BODY.bone_transforms(pose, heads, alignments)[1] - BODY.pelvis(BODY.vertices(pose, shape))[:, None]
    bones = [BODY.bone_index(name) for name in NAMES]
    return (placed[:, bones].numpy() + person["translation_m"][:, None]) * UP_FROM_CAMERA


def test_joints_are_where_the_body_has_them(tmp_path: Path) -> None:
    paths = write_people(write_npz(tmp_path / "meshes.npz", PEOPLE))
    assert [path.name for path in paths] == ["person-3.bvh", "person-7.bvh"]
    for path, person in zip(paths, PEOPLE, strict=True):
        names, places = joints_of_file(path)
        assert sorted(names) == sorted(NAMES.values())
        wanted = joints_of_body(person)[:, [list(NAMES.values()).index(name) for name in names]]
        assert np.ptp(wanted, axis=0).max() > 0.3  # they do move
        np.testing.assert_allclose(places[FIRST:], wanted + place_m(PEOPLE), atol=2e-4)
    assert len(list(tmp_path.iterdir())) == 3


def test_all_that_moves_is_in_it_under_names_that_rigs_have(tmp_path: Path) -> None:
    assert {BODY.bone_index(name) for name in NAMES} == set(MOVING)
    (path,) = write_people(write_npz(tmp_path / "meshes.npz", PEOPLE[:1]), tmp_path / "new" / "folder")
    names = read_bvh(path)[0]
    found = {part: names[joint] for part, joint in named_joints(names).items()}
    assert found["hip.L"] == "LeftUpLeg"
    assert found["elbow.R"] == "RightForeArm"
    assert found["head"] == "Head"
    assert "Frame Time: 0.04000000" in path.read_text()
    assert "-0.000000" not in path.read_text()


def columns_of(person: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[kept] for name, values in person.items()}


def test_frames_are_those_of_the_video(tmp_path: Path) -> None:
    """Short gaps are bridged; in long ones, before and after somebody keeps still."""
    person, kept = PEOPLE[0], np.array([2, 3, 5, 6, 11])
    thinned = columns_of(person, kept)
    paths = write_people(write_npz(tmp_path / "meshes.npz", [thinned, columns_of(PEOPLE[1], np.arange(3))]))
    places, others = (joints_of_file(path)[1] for path in paths)
    assert len(places) == len(others) == FIRST + NUM_FRAMES
    names = joints_of_file(paths[0])[0]
    wanted = joints_of_body(person)[:, [list(NAMES.values()).index(name) for name in names]]
    moved = places[FIRST + kept[0]] - wanted[kept[0]]
    assert np.ptp(moved, axis=0).max() < 2e-4
    np.testing.assert_allclose(places[FIRST + kept], wanted[kept] + moved[0], atol=2e-4)
    np.testing.assert_array_equal(places[: FIRST + 2], places[FIRST + 2][None].repeat(FIRST + 2, 0))
    np.testing.assert_allclose(places[FIRST + 4, 0], (places[FIRST + 3, 0] + places[FIRST + 5, 0]) / 2, atol=2e-6)
    assert np.abs(places[FIRST + 4] - wanted[4] - moved[0]).max() < 0.05
    np.testing.assert_array_equal(places[FIRST + 7 : FIRST + 11], places[FIRST + 6][None].repeat(4, 0))
    np.testing.assert_array_equal(others[FIRST + 3 :], others[FIRST + 2][None].repeat(NUM_FRAMES - 3, 0))


def test_one_frame_is_a_pose(tmp_path: Path) -> None:
    still = columns_of(PEOPLE[1], np.arange(4, 5)) | {"frame_index": np.zeros(1, int), "time_s": np.zeros(1)}
    (path,) = write_people(write_npz(tmp_path / "meshes.npz", [still], fps=0.0))
    assert len(joints_of_file(path)[1]) == 1


def test_angles_do_not_jump(tmp_path: Path) -> None:
    spinning = rows(1, [0.5] * 6, 2)
    angles = np.linspace(0, 900, NUM_FRAMES)
    spinning["bone_rotmats"][:, 0] = Rotation.from_euler("y", angles[:, None], degrees=True).as_matrix()
    (path,) = write_people(write_npz(tmp_path / "meshes.npz", [spinning]))
    assert np.abs(np.diff(read_bvh(path)[4][:, 5])).max() < 120


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bone_rotmats": None}, "make it again with --overwrite --glb and without --mesh free"),
        ({"body": "smpl"}, "got the body 'smpl', expected 'anny'"),
        ({"fps": None}, "not a meshes.npz of ours"),
        ({"track_id": np.zeros(0, int)}, "nobody was found"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, said: str) -> None:
    path = write_npz(tmp_path / "meshes.npz", PEOPLE[:1], **changes)
    with pytest.raises(InputError, match=r"meshes\.npz: "):
        write_people(path)
    assert main([str(path)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_no_file_and_no_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.npz").write_text("nothing")
    assert main([str(tmp_path / "notes.npz")]) == main([str(tmp_path / "none.npz")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_command(tmp_path: Path, repository: Path) -> None:
    files = []
    for name in ("a/in", "b/in", "c"):
        (tmp_path / name).mkdir(parents=True)
        files.append(str(write_npz(tmp_path / name / "meshes.npz", PEOPLE)))
    command = [sys.executable, "-m", "app.export.bvh", *files, "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    written = sorted((tmp_path / "out").rglob("*.bvh"))
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in written) == [
        f"{name}/person-{number}.bvh" for name in ("c", "in-2", "in") for number in (3, 7)
    ]
    assert sorted(ended.stdout.split()) == sorted(str(path) for path in written)
