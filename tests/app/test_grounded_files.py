"""people.glb and BVH files of people who stand before a camera that looks down and turns: all of app.export.world in them, together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from app.export.bvh import write_people
from app.export.glb import write_glb
from app.export.sink import UP_FROM_CAMERA
from app.export.world import World
from core.bodies.anny import AnnyBody
from core.fitters import fitter_for
from core.joints import ANKLES, JOINT_NAMES
from tests.app.gltf_player import Played
from tests.app.stick_people import camera_from_world
from tests.app.test_bvh import joints_of_file, table_of

BODY = AnnyBody()
FPS, NUM_FRAMES = 25.0, 30
PITCH_DEG, HEIGHT_M = 20.0, 2.4


def standing(track_id: int, at_m: tuple[float, float], share: float, phenotype: list[float]) -> dict[str, np.ndarray]:
    """Somebody who stands and nods before a camera that turns, whose distance errs: by a share of it, and to and fro."""
    shape = torch.tensor([phenotype])
    rotmats = fitter_for(BODY).rig.rest_rotmats.numpy()[None].repeat(NUM_FRAMES, 0)
    bow = Rotation.from_euler("x", 12 * np.sin(np.arange(NUM_FRAMES) / 3)[:, None], degrees=True).as_matrix()
    rotmats[:, BODY.bone_index("spine03")] = bow @ rotmats[:, BODY.bone_index("spine03")]
    camera = camera_from_world(PITCH_DEG) @ np.diag(UP_FROM_CAMERA.astype(float))
    rest = BODY.vertices(torch.from_numpy(rotmats[:1]).float(), shape)
    pelvis_m = float((BODY.pelvis(rest) - rest.amax(1))[0, 1])  # above the soles, y down
    place_m = camera @ (at_m[0], HEIGHT_M + pelvis_m, at_m[1])
    turns = turns_of(NUM_FRAMES)
    glide = share + 0.015 * np.sin(np.arange(NUM_FRAMES) / 2)
    rotmats[:, 0] = turns.transpose(0, 2, 1) @ camera @ rotmats[:, 0]
    return {
        "track_id": np.full(NUM_FRAMES, track_id), "frame_index": np.arange(NUM_FRAMES), "time_s": np.arange(NUM_FRAMES) / FPS,
        "translation_m": (turns.transpose(0, 2, 1) @ place_m) * glide[:, None], "bone_rotmats": rotmats,
        "phenotype": np.repeat([phenotype], NUM_FRAMES, 0).astype(np.float32), "start_from_camera": turns,
    }  # fmt: skip


def turns_of(count: int) -> np.ndarray:
    return Rotation.from_euler("yx", np.linspace((0, 0), (14, -5), count), degrees=True).as_matrix()


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    people = [standing(3, (-0.6, 5.0), 1.0, [0.2, 0.6, 0.5, 0.6, 0.5, 0.5]), standing(7, (0.8, 6.0), 0.93, [0.8, 0.6, 0.5, 0.4, 0.5, 0.5])]
    return table_of(people, fps=FPS)


@pytest.fixture(scope="module")
def world(table: dict[str, np.ndarray]) -> World:
    world = World.of(table, table["vertices_m"])
    assert world.camera.pitch_deg == pytest.approx(PITCH_DEG, abs=6)
    assert not world.rests
    assert max(abs(size - 1) for size in world.sizes.values()) > 0.03, "one of the two had to be made larger or smaller"
    assert np.abs(world.ankle_moves_m).max() > 0.005, "legs have something to do"
    return world


def wanted_joints_m(world: World, person: int) -> np.ndarray:
    """(T, 14, 3) in the world, ankles where legs bring them."""
    track = world.tracks[person]
    joints_m = track.joints_m.copy()
    joints_m[:, ANKLES] += world.ankle_moves_m[track.rows]
    return world.camera.world_m(joints_m)


def test_skinned_bodies_stand_where_the_world_has_them(table: dict[str, np.ndarray], world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "meshes.npz", **table)
    write_glb(tmp_path / "meshes.npz", tmp_path / "people.glb", show_hidden=True)
    played = Played(tmp_path / "people.glb")
    legs = [JOINT_NAMES.index(f"{side}_{name}") for side in "RL" for name in ("Ankle", "Knee")]
    for frame in (0, 9, NUM_FRAMES - 1):
        bodies = played.skinned(frame / FPS)
        for person, track_id in enumerate((3, 7)):
            found_m, wanted_m = BODY.joint_regressor @ bodies[f"body {track_id}"], wanted_joints_m(world, person)[frame]
            error_m = np.linalg.norm(found_m - wanted_m, axis=1)
            assert np.delete(error_m, legs).max() < 0.006
            assert error_m[ANKLES].max() < 0.008
            assert np.ptp(bodies[f"body {track_id}"][:, 1]) > 1.4, "upright"
            assert bodies[f"body {track_id}"][:, 1].min() == pytest.approx(0, abs=0.05), "on the floor"


def test_feet_of_bvh_files_rest_where_those_of_the_bodies_do(table: dict[str, np.ndarray], world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "meshes.npz", **table)
    write_glb(tmp_path / "meshes.npz", tmp_path / "people.glb")
    played = Played(tmp_path / "people.glb")
    raw_m = world.camera.world_m(np.einsum("nij,nkj->nki", table["start_from_camera"], table["joints_m"] + table["translation_m"][:, None]))
    for person, path in enumerate(write_people(tmp_path / "meshes.npz")):
        names, places_m = joints_of_file(path)
        joints = {played.tree["nodes"][joint]["name"]: joint for joint in played.tree["skins"][person]["joints"]}
        for frame in (0, 13, NUM_FRAMES - 1):
            found_m = np.stack([played.world(joints[name], frame / FPS)[:3, 3] for name in names])
            np.testing.assert_allclose(found_m, places_m[frame], atol=2e-4)
        feet_m = places_m[:, [names.index("RightFoot"), names.index("LeftFoot")]]
        before_m = raw_m[world.tracks[person].rows][:, ANKLES]
        assert np.ptp(feet_m[3:-3], axis=0).max() < 0.15 * np.ptp(before_m[3:-3], axis=0).max()


def test_previews_are_the_rows_where_the_world_has_them(table: dict[str, np.ndarray], world: World, tmp_path: Path) -> None:
    free = {name: values for name, values in table.items() if name not in ("bone_rotmats", "phenotype")}
    np.savez(tmp_path / "meshes.npz", **free)
    write_glb(tmp_path / "meshes.npz", tmp_path / "people.glb", show_hidden=True)
    played = Played(tmp_path / "people.glb")
    space = played.world(len(played.tree["nodes"]) - 1, 0.0)
    ids = BODY.levels.intermediate_ids
    for frame in (0, NUM_FRAMES - 1):
        people = played.people(frame / FPS)
        for person, track_id in enumerate((3, 7)):
            row = world.tracks[person].rows[frame]
            mesh_m = table["vertices_m"][row, ids] @ world.start_from_camera[row].T * world.sizes[track_id] + world.translation_m[row]
            found_m = people[f"person {track_id}"] @ space[:3, :3].T + space[:3, 3]
            np.testing.assert_allclose(found_m, world.camera.world_m(mesh_m), atol=1e-4)
