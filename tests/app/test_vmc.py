"""Motion sent to avatars: what a receiver that knows only the protocol makes of it."""

import logging
import socket
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pythonosc.udp_client import UDPClient
from scipy.spatial.transform import Rotation

from app.config import LiveConfig, add_flags, flag_fields, idle_flags, vmc_address
from app.export.humanoid import ABOVE, NAMES
from app.export.vmc import Performer, VmcSender
from app.types import SmoothedMesh
from core.bodies.anny import AVERAGE_ADULT, AnnyBody
from core.errors import InputError
from core.fitters import fitter_for
from core.joints import JOINT_NAMES
from core.rotations import about_y, about_z
from tests.app.launching import outcome
from tests.app.media import mesh, scene, write_video
from tests.app.vmc_receiver import received

BODY = AnnyBody()
REST = fitter_for(BODY).rig.rest_rotmats.numpy()
MIRROR = np.array([-1.0, 1, 1])
"""Unity's axes are ours, y up, seen in a mirror."""


def somebody(turns: dict[str, np.ndarray] | None = None, **changes: object) -> SmoothedMesh:
    """Who stands in the A-pose but for these bones, in camera axes."""
    rotmats = REST.copy()
    for bone, turn in (turns or {}).items():
        rotmats[BODY.bone_index(bone)] = turn @ REST[BODY.bone_index(bone)]
    vertices = BODY.vertices(torch.from_numpy(rotmats)[None].float(), AVERAGE_ADULT)
    vertices = vertices - BODY.pelvis(vertices)[:, None]
    return mesh(
        vertices_m=vertices[0].numpy(), joints_m=BODY.joints(vertices)[0].numpy(), rotmats=rotmats.astype(np.float32),
        shape=AVERAGE_ADULT[0].numpy(), **changes,
    )  # fmt: skip


def placed(positions_m: np.ndarray, quaternions: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Forward kinematics as Unity does it: each bone's place and turn in space."""
    places, turns = {}, {}
    for name, above, offset_m, quaternion in zip(NAMES, ABOVE, positions_m, quaternions, strict=True):
        turn = Rotation.from_quat(quaternion).as_matrix()
        over = NAMES[above]
        places[name] = places[over] + turns[over] @ offset_m if above >= 0 else offset_m
        turns[name] = turns[over] @ turn if above >= 0 else turn
    return places, turns


def degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other / np.linalg.norm(one) / np.linalg.norm(other), -1, 1))))


LIMBS = [
    (f"{side}{upper}", f"{side}{lower}", f"{letter}_{start}", f"{letter}_{end}")
    for side, letter in (("Left", "L"), ("Right", "R"))
    for upper, lower, start, end in (
        ("UpperArm", "LowerArm", "Shoulder", "Elbow"), ("LowerArm", "Hand", "Elbow", "Wrist"),
        ("UpperLeg", "LowerLeg", "Hip", "Knee"), ("LowerLeg", "Foot", "Knee", "Ankle"),
    )
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_limbs_point_where_those_of_the_mesh_do(seed: int) -> None:
    random = np.random.default_rng(seed)
    bones = [f"{bone}.{side}" for bone in ("upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "clavicle") for side in "LR"]
    turns = {bone: Rotation.from_rotvec(random.normal(0, 0.4, 3)).as_matrix() for bone in ["root", "spine03", *bones]}
    person, performer = somebody(turns), Performer(BODY)
    places, _ = placed(*performer.pose(person))
    for upper, lower, start, end in LIMBS:
        limb_m = person.joints_m[JOINT_NAMES.index(end)] - person.joints_m[JOINT_NAMES.index(start)]
        found_m = places[lower] - places[upper]
        assert degrees_between(found_m, limb_m * [1, -1, -1] * MIRROR) < 9, (upper, lower)  # H36M's joints are not quite where bones begin
        assert np.linalg.norm(found_m) == pytest.approx(np.linalg.norm(limb_m), rel=0.2)


def test_a_body_in_t_pose_turns_no_bone() -> None:
    performer = Performer(BODY)
    apart = performer.pose(somebody())
    names = list(NAMES)
    _, turns = placed(*apart)
    hanging = {name: turns[name] @ (MIRROR * [1 if "Left" in name else -1, 0, 0]) for name in names if "Arm" in name}
    for name, along in hanging.items():  # the A-pose: arms hang by 40 to 55 degrees, elbows bend to the front
        assert -0.85 < along[1] < -0.45, name
        assert (along[2] > 0.5) == ("Lower" in name)
    for side in ("Left", "Right"):
        palm = turns[f"{side}Hand"] @ [0, -1, 0]
        assert palm[0] * (1 if side == "Left" else -1) > 0.5  # palms face the body
        assert degrees_between(turns[f"{side}Foot"] @ [0, 1, 0], np.array([0, 1, 0])) < 1
    assert degrees_between(turns["Head"] @ [0, 0, 1], np.array([0, 0, 1])) < 6
    np.testing.assert_allclose(apart.quaternions[0], [0, 0, 0, 1], atol=1e-6)


def test_arms_raised_to_the_sides_are_the_t_pose() -> None:
    """What turns the upper arms is undone by hand; forearms and hands then lie along them but for the bent elbow."""
    performer = Performer(BODY)
    performer.pose(somebody())
    raised = {f"upperarm01.{side}": about_z(sign * 51.6) for side, sign in (("L", -1), ("R", 1))}
    places, _ = placed(*performer.pose(somebody(raised)))
    for side, outwards in (("Left", -1), ("Right", 1)):
        upper_m = places[f"{side}LowerArm"] - places[f"{side}UpperArm"]
        assert degrees_between(upper_m, np.array([outwards, 0, 0])) < 8
        assert (places[f"{side}Hand"] - places[f"{side}LowerArm"])[2] > 0.1  # the elbow bends to the front


def test_who_turns_to_their_left_turns_to_unitys_left() -> None:
    performer = Performer(BODY)
    _, turns = placed(*performer.pose(somebody({"root": about_y(-60)})))  # about the camera's y, which points down
    looks = turns["Hips"] @ [0, 0, 1]
    np.testing.assert_allclose(looks, [-np.sin(np.radians(60)), 0, np.cos(np.radians(60))], atol=1e-5)


def test_the_lowest_point_stands_on_the_ground() -> None:
    performer = Performer(BODY)
    standing = performer.pose(somebody())
    bent = {"upperleg01": -1.5, "lowerleg01": 2.2}
    knees = {f"{bone}.{side}": Rotation.from_rotvec([angle, 0, 0]).as_matrix() for side in "LR" for bone, angle in bent.items()}
    crouching = performer.pose(somebody(knees))
    places, _ = placed(*standing)
    assert places["LeftFoot"][1] == pytest.approx(0.09, abs=0.05)
    assert places["Head"][1] > 1.3
    assert crouching.positions_m[0, 1] < standing.positions_m[0, 1] - 0.25


def test_what_is_not_seen_hangs_and_stands() -> None:
    performer = Performer(BODY)
    lifted = {"upperarm01.L": about_z(-100), "upperarm01.R": about_z(100), "upperleg01.L": Rotation.from_rotvec([-1.5, 0, 0]).as_matrix()}
    unseen = np.array([name in ("Neck", "Head", "L_Shoulder", "R_Shoulder") for name in JOINT_NAMES], np.float32)
    hidden = performer.pose(somebody(lifted, visibility=unseen))
    places, _ = placed(*hidden)
    for side in ("Left", "Right"):
        assert places[f"{side}Hand"][1] < places["Hips"][1] + 0.1
        assert abs(places[f"{side}Foot"][1] - places["RightFoot"][1]) < 0.02
    assert hidden.positions_m[0, 1] == pytest.approx(performer.pose(somebody()).positions_m[0, 1], abs=0.06)
    seen, half = performer.pose(somebody(lifted)), performer.pose(somebody(lifted, visibility=np.full(14, 0.45)))
    arm = NAMES.index("LeftUpperArm")
    angles = [Rotation.from_quat(pose.quaternions[arm]).as_rotvec(degrees=True)[2] for pose in (hidden, half, seen)]
    assert angles[0] > angles[1] + 20 > angles[2] + 40  # it passes from one to the other


def sender_to(receivers: list[socket.socket], body: object = BODY) -> VmcSender:
    return VmcSender(receivers[0].getsockname(), lambda: body)


def test_a_frame_is_what_the_protocol_says(receivers: list[socket.socket]) -> None:
    sender = sender_to(receivers)
    sender.write(scene(somebody(translation_m=(0.5, 0.2, 3.0))))
    sender.write(scene(somebody(translation_m=(0.7, 0.2, 2.5)), index=1))
    messages = received(receivers[0])
    assert [message[0] for message in messages[:3]] == ["/VMC/Ext/OK", "/VMC/Ext/T", "/VMC/Ext/Root/Pos"]
    assert messages[0][1] == 1
    bones = [message[1:] for message in messages if message[0] == "/VMC/Ext/Bone/Pos"]
    performer = Performer(BODY)
    assert [bone[0] for bone in bones] == [*NAMES] * 2
    expected = performer.pose(somebody(translation_m=(0.5, 0.2, 3.0)))
    np.testing.assert_allclose([bone[4:] for bone in bones[: len(NAMES)]], expected.quaternions, atol=1e-6)
    first, second = (np.array(bone[1:4]) for bone in bones if bone[0] == "Hips")
    np.testing.assert_allclose(first[[0, 2]], 0, atol=1e-6)  # everybody begins where the avatar stands
    np.testing.assert_allclose((second - first)[[0, 2]], [-0.2, 0.5], atol=1e-5)  # to their left and nearer
    assert not received(receivers[1])


def test_each_person_has_a_port_and_a_new_one_takes_over(receivers: list[socket.socket]) -> None:
    sender = sender_to(receivers)
    sender.write(scene(somebody(track_id=1), somebody(track_id=2)))
    assert received(receivers[0])
    assert received(receivers[1])
    sender.write(scene(somebody(track_id=2)))
    assert not received(receivers[0])
    assert received(receivers[1])
    sender.write(scene(somebody(track_id=2), somebody(track_id=3)))  # taken for somebody new: the avatar goes on
    assert received(receivers[0])
    sender.write(scene(somebody(track_id=1), somebody(track_id=2), somebody(track_id=3)))
    assert received(receivers[2])
    sender.close()


def test_people_without_known_bones_are_not_sent(receivers: list[socket.socket]) -> None:
    sender = sender_to(receivers)
    sender.write(scene(replace(somebody(), rotmats=None, shape=None)))
    assert not received(receivers[0])


def test_other_bodies_are_refused_in_words(receivers: list[socket.socket]) -> None:
    class Other:
        name = "smpl"

    with pytest.raises(InputError, match="got the body 'smpl', expected 'anny'"):
        sender_to(receivers, Other()).write(scene(somebody()))


def test_a_network_that_is_away_is_said_once(
    receivers: list[socket.socket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sender, send = sender_to(receivers), UDPClient.send

    def unreachable(_: UDPClient, __: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(UDPClient, "send", unreachable)
    with caplog.at_level(logging.WARNING):
        sender.write(scene(somebody()))
        sender.write(scene(somebody(), index=1))
    assert [record.message for record in caplog.records] == [
        "--vmc: nothing can be sent to 127.0.0.1 (Network is unreachable); it is tried again with every frame"
    ]
    monkeypatch.setattr(UDPClient, "send", send)
    sender.write(scene(somebody(), index=2))
    assert received(receivers[0])


def test_addresses() -> None:
    assert vmc_address("10.0.0.2:39540") == ("10.0.0.2", 39540)
    assert vmc_address("studio-pc") == ("studio-pc", 39539)
    assert vmc_address("[::1]:5000") == ("::1", 5000)
    parser = ArgumentParser()
    add_flags(parser, flag_fields())
    config = LiveConfig(vmc=parser.parse_args(["--vmc"]).vmc)
    assert config.vmc == ("127.0.0.1", 39539)
    assert config.for_camera().parametric
    assert idle_flags("video", config) == ["--vmc"]


@pytest.mark.parametrize("bad", ["", ":39539", "host:0", "host:70000", "host:x", "a b", "1:2:3"])
def test_what_is_no_address_is_a_usage_error(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "--webcam", "0", "--vmc", bad)
    assert code == 2
    assert "expected HOST or HOST:PORT" in err


def test_an_unknown_host_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_video(tmp_path / "clip.mp4")
    code, _, err = outcome(capsys, "--webcam", clip, "--headless", "--vmc", "no.such.host.invalid")
    assert code == 1
    assert "--vmc: the host 'no.such.host.invalid' is not known" in err
