"""VRM animations, played by the glTF specification alone, against the BVH files of the same people."""

import itertools
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from app.export import bvh
from app.export.motions import write_motion
from app.export.vrma import SEEN_S, main, write_people
from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.fitters import fitter_for
from core.joints import ANKLES, JOINT_NAMES
from core.rotations import about_z
from tests.app.gltf_player import Played
from tests.app.test_bvh import FIRST, FPS, NUM_FRAMES, PEOPLE, columns_of, joints_of_file, write_npz
from tests.app.test_grounded_files import standing

BODY = AnnyBody()
REQUIRED = {
    "hips", "spine", "head", *(f"{side}{bone}" for side in ("left", "right") for bone in (
        "UpperArm", "LowerArm", "Hand", "UpperLeg", "LowerLeg", "Foot")),
}  # fmt: skip
"""Bones that every VRM avatar has."""
SAME = {
    "hips": "Hips", **{
        f"{side.lower()}{vrm}": f"{side}{ours}" for side in ("Left", "Right")
        for vrm, ours in (("UpperLeg", "UpLeg"), ("LowerLeg", "Leg"), ("Foot", "Foot"))
    },
}  # fmt: skip
"""Bones -> joints of BVH files in the same place: none bends between them."""
LIMBS = [
    (f"{side}{upper}", f"{side}{lower}")
    for side in ("left", "right")
    for upper, lower in itertools.pairwise(("UpperArm", "LowerArm", "Hand"))
]
IN_BVH = {"UpperArm": "Arm", "LowerArm": "ForeArm", "Hand": "Hand"}


def bones_of(played: Played) -> dict[str, int]:
    extension = played.tree["extensions"]["VRMC_vrm_animation"]
    assert played.tree["extensionsUsed"] == ["VRMC_vrm_animation"]
    assert extension["specVersion"] == "1.0"
    return {name: bone["node"] for name, bone in extension["humanoid"]["humanBones"].items()}


def places_m(played: Played, time_s: float) -> dict[str, np.ndarray]:
    return {name: played.world(node, time_s)[:3, 3] for name, node in bones_of(played).items()}


def in_bvh(name: str) -> str:
    side = "Left" if name.startswith("left") else "Right"
    return side + IN_BVH[name.removeprefix(side.lower())]


def twisting(person: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With forearms that twist and do not break, as those of people; humanoids have no bone there."""
    rotmats = person["bone_rotmats"].copy()
    for bone in (BODY.bone_index(f"lowerarm02.{side}") for side in "LR"):
        rotmats[:, bone] = fitter_for(BODY).rig.rest_rotmats[bone].numpy()
    return person | {"bone_rotmats": rotmats}


def test_every_frame_is_the_skeleton_of_the_bvh_file(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "meshes.npz", [twisting(person) for person in PEOPLE])
    for mine, theirs in zip(write_people(path), bvh.write_people(path), strict=True):
        assert mine.name == f"{theirs.stem}.vrma"
        played, (names, joints_m) = Played(mine), joints_of_file(theirs)
        for frame in range(FIRST, FIRST + NUM_FRAMES):
            found_m = places_m(played, frame / FPS)
            for name, joint in SAME.items():
                np.testing.assert_allclose(found_m[name], joints_m[frame, names.index(joint)], atol=2e-4)
            for upper, lower in LIMBS:
                wanted_m = joints_m[frame, names.index(in_bvh(lower))] - joints_m[frame, names.index(in_bvh(upper))]
                np.testing.assert_allclose(found_m[lower] - found_m[upper], wanted_m, atol=2e-4)


def test_at_rest_it_stands_in_a_t_pose_in_its_own_size(tmp_path: Path) -> None:
    for path in write_people(write_npz(tmp_path / "meshes.npz", PEOPLE)):
        played = Played(path)
        nodes = bones_of(played)
        assert set(nodes) >= REQUIRED
        assert all("rotation" not in node or node["rotation"] is None for node in played.tree["nodes"])
        assert {target for node, target in played.channels if node != nodes["hips"]} == {"rotation"}
        played.channels.clear()
        rest_m = places_m(played, 0.0)
        for side, outwards in (("left", 1), ("right", -1)):
            arm_m = rest_m[f"{side}Hand"] - rest_m[f"{side}UpperArm"]
            np.testing.assert_allclose(arm_m / np.linalg.norm(arm_m), [outwards, 0, 0], atol=1e-4)
            leg_m = rest_m[f"{side}Foot"] - rest_m[f"{side}UpperLeg"]
            np.testing.assert_allclose(leg_m / np.linalg.norm(leg_m), [0, -1, 0], atol=1e-4)
            assert 0.02 < rest_m[f"{side}Foot"][1] < 0.12
        assert rest_m["head"][1] > rest_m["hips"][1] + 0.3


def test_feet_stand_on_the_floor_of_a_camera_that_looks_down_and_turns(tmp_path: Path) -> None:
    people = [standing(3, (-0.6, 5.0), 1.0, [0.2, 0.6, 0.5, 0.6, 0.5, 0.5]), standing(7, (0.8, 6.0), 0.93, [0.8, 0.6, 0.5, 0.4, 0.5, 0.5])]
    path = write_npz(tmp_path / "meshes.npz", people)
    for mine, theirs in zip(write_people(path), bvh.write_people(path), strict=True):
        played, (names, joints_m) = Played(mine), joints_of_file(theirs)
        for frame in (0, 10, 29):
            found_m = places_m(played, frame / FPS)
            for name, joint in SAME.items():
                np.testing.assert_allclose(found_m[name], joints_m[frame, names.index(joint)], atol=2e-4)


def legs_lifted(person: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rotmats = person["bone_rotmats"].copy()
    rotmats[:, BODY.bone_index("upperleg01.L")] = about_z(60) @ rotmats[:, BODY.bone_index("upperleg01.L")]
    return person | {"bone_rotmats": rotmats}


def test_limbs_that_are_never_seen_hang_and_stand(tmp_path: Path) -> None:
    person = legs_lifted(PEOPLE[0])
    hidden = np.array([name not in ("Neck", "Head", "L_Shoulder", "R_Shoulder") for name in JOINT_NAMES])
    visibility = np.where(hidden, 0.0, 1.0)[None].repeat(NUM_FRAMES, 0)
    (path,) = write_people(write_npz(tmp_path / "meshes.npz", [person], joint_visibility=visibility))
    played = Played(path)
    played_at_rest = Played(path)
    played_at_rest.channels.clear()
    standing_m = places_m(played_at_rest, 0.0)["hips"][1]
    found_m = places_m(played, FIRST / FPS)
    assert found_m["hips"][1] == pytest.approx(standing_m, abs=1e-4)
    upright = played.world(bones_of(played)["hips"], FIRST / FPS)[:3, :3]
    for side in ("left", "right"):
        leg_m = upright.T @ (found_m[f"{side}Foot"] - found_m[f"{side}UpperLeg"])
        np.testing.assert_allclose(leg_m / np.linalg.norm(leg_m), [0, -1, 0], atol=2e-4)
    for side in ("left", "right"):
        arm_m = played.world(bones_of(played)[f"{side}Shoulder"], FIRST / FPS)[:3, :3].T @ (
            found_m[f"{side}Hand"] - found_m[f"{side}UpperArm"]
        )
        assert arm_m[1] < -0.9 * np.linalg.norm(arm_m)


def test_limbs_that_are_hidden_for_a_moment_move_on(tmp_path: Path) -> None:
    long = {name: np.concatenate([values] * 8) for name, values in legs_lifted(PEOPLE[0]).items()}
    count = len(long["track_id"])
    long |= {"frame_index": np.arange(count), "time_s": np.arange(count) / FPS}
    visibility = np.ones((count, len(JOINT_NAMES)))
    blink = slice(20, 20 + int(SEEN_S * FPS))
    for rows_, seen in ((slice(0, 0), True), (blink, True), (slice(1, count), False)):
        hidden = visibility.copy()
        hidden[rows_, ANKLES[0] : ANKLES[-1] + 1] = 0
        hidden[rows_, JOINT_NAMES.index("L_Knee")] = 0
        (path,) = write_people(write_npz(tmp_path / "meshes.npz", [long], joint_visibility=hidden))
        played = Played(path)
        node = bones_of(played)["leftUpperLeg"]
        turned = [played.rotation(node, frame / FPS, (0, 0, 0, 1)).magnitude() for frame in (30, count - 5)]
        assert (turned[1] > 0.5) == seen
        assert turned[0] > 0.5 or not seen


def test_gaps_are_held_and_all_files_end_together(tmp_path: Path) -> None:
    kept = np.array([0, 1, 2, 8, 9])
    later = PEOPLE[1] | {"frame_index": PEOPLE[1]["frame_index"] + 20, "time_s": PEOPLE[1]["time_s"] + 20 / FPS}
    people = [columns_of(PEOPLE[0], kept), later]
    first, second = (Played(path) for path in write_people(write_npz(tmp_path / "meshes.npz", people)))
    before_m, inside_m, after_m = (places_m(first, (FIRST + frame) / FPS)["hips"] for frame in (2, 7.9, 8))
    np.testing.assert_allclose(inside_m, before_m, atol=1e-5)
    assert np.linalg.norm(after_m - before_m) > 0.1
    ends = {played.channels[bones_of(played)["hips"], "translation"][0][-1, 0] for played in (first, second)}
    assert ends == {np.float32((FIRST + 20 + NUM_FRAMES - 1) / FPS)}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_npz(tmp_path / "meshes.npz", PEOPLE)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / f"person-{number}.vrma") for number in (3, 7)]
    bad = write_npz(tmp_path / "smpl.npz", PEOPLE, body="smpl")
    assert main([str(bad)]) == 1
    assert capsys.readouterr().err.splitlines() == [f"{bad}: got the body 'smpl', expected 'anny'; for SMPL use its own tools"]


def test_an_archive_holds_the_same_files(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "meshes.npz", PEOPLE)
    write_motion(path, tmp_path / "motion.zip")
    with ZipFile(tmp_path / "motion.zip") as archive:
        assert sorted(archive.namelist()) == [f"person-{number}{suffix}" for number in (3, 7) for suffix in (".bvh", ".fbx", ".vrma")]
        for written in (*write_people(path), *bvh.write_people(path)):
            assert archive.read(written.name) == written.read_bytes()
    with pytest.raises(InputError):
        write_motion(write_npz(tmp_path / "other.npz", PEOPLE, body="smpl"), tmp_path / "other.zip")
    assert not list(tmp_path.glob("other.[!n]*"))
