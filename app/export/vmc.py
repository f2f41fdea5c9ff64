"""Motion as it happens, to programs that animate avatars: the VMC protocol, which is OSC over UDP.

Blender, Unity, Unreal, Godot and the programs of streamers receive it, with add-ons of their own. Each person goes to a port of their
own, the first to the one asked for, the next to the one after it.
Source: Virtual Motion Capture Protocol, https://protocol.vmc.info/english ; the performer's messages.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.udp_client import UDPClient

from app.config import MAX_PORT
from app.export.bones import BODY
from app.export.humanoid import NAMES, Humanoid, with_unseen
from app.export.sink import UP_FROM_CAMERA
from app.types import Scene, SmoothedMesh
from app.visibility import shown_share
from core.errors import InputError

if TYPE_CHECKING:
    from core.bodies import Body
    from core.bodies.anny import AnnyBody

log = logging.getLogger(__name__)

MAX_BYTES = 1400
"""Of a datagram, so that networks need not cut it."""
HEADER_BYTES, LENGTH_BYTES = 16, 4
"""Of a bundle, and before each message in it."""
MIRROR = np.array([-1.0, 1.0, 1.0])
"""Unity's axes are left-handed: ours seen in a mirror."""


class BonePose(NamedTuple):
    """positions_m: (B, 3) of each bone in the one above it, of the hips in space; quaternions: (B, 4) x, y, z, w, likewise."""

    positions_m: np.ndarray
    quaternions: np.ndarray


class Performer:
    """Somebody's bones in Unity's axes, of their own size."""

    def __init__(self, body: "AnnyBody") -> None:
        self._body = body
        self._shape: np.ndarray | None = None

    def pose(self, mesh: SmoothedMesh) -> BonePose:
        """Of somebody with rotmats and shape.

        The lowest point of the mesh stands at height 0; x and z are as the camera sees them. Limbs that are not seen hang and stand.
        """
        if self._shape is None or not np.array_equal(self._shape, mesh.shape):  # it is found while somebody is seen, and rests then
            self._shape, self._humanoid = mesh.shape, Humanoid(self._body, mesh.shape)
        humanoid, seen = self._humanoid, shown_share(mesh.joint_visibility)
        rotations = humanoid.rotations(lambda bone: mesh.rotmats[bone])
        hips_m = rotations[0] @ humanoid.root_m
        positions_m = humanoid.offsets_m.copy()
        positions_m[0] = UP_FROM_CAMERA * mesh.translation_m + hips_m
        positions_m[0, 1] = humanoid.hips_height_m(mesh.vertices_m[:, 1].max() + hips_m[1], seen)
        return BonePose(positions_m * MIRROR, with_unseen(rotations, seen) * [1, -1, -1, 1])


@dataclass
class _Place:
    """Somebody who is sent. number: of the port, from 0; origin_m: (3,) where they stood at first."""

    number: int
    client: UDPClient
    performer: Performer
    origin_m: np.ndarray | None = None


class VmcSender:
    """A sink of live scenes that sends everybody whose bones are known."""

    def __init__(self, address: tuple[str, int], body: Callable[[], "Body"]) -> None:
        """body: that of the meshes, asked once there are some. Raises InputError for a host that is not known."""
        self._host, self._port = address
        self._body, self._places, self._failed = body, dict[int, _Place](), False
        self._start_s = time.perf_counter()
        try:  # once: the client would ask for the name with every frame
            self._ip = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][4][0]
        except OSError as error:
            raise InputError(f"--vmc: the host {self._host!r} is not known ({error.strerror or error}); check the name") from error

    def write(self, scene: Scene) -> None:
        """Send the scene. Raises InputError for bodies without such a skeleton."""
        present = [mesh for mesh in scene.meshes if mesh.rotmats is not None]
        for mesh in present:
            place = self._places.get(mesh.track_id) or self._enter(mesh.track_id, {mesh.track_id for mesh in present})
            pose = place.performer.pose(mesh)
            if place.origin_m is None:
                place.origin_m = pose.positions_m[0] * [1, 0, 1]
            pose.positions_m[0] -= place.origin_m
            self._send(place.client, self._messages(pose))

    def close(self) -> None:
        """Nothing more is sent."""
        for place in self._places.values():
            place.client.close()
        self._places.clear()

    def _enter(self, track_id: int, present: set[int]) -> _Place:
        """The first port of which nobody in the picture has need: an avatar goes on moving when its person is taken for somebody new."""
        body = self._body()
        if body.name != BODY:
            raise InputError(f"got the body {body.name!r}, expected {BODY!r}, whose bones are known")
        taken = {place.number for other, place in self._places.items() if other in present}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        for other in [other for other, place in self._places.items() if place.number == number]:
            self._places.pop(other).client.close()
        port = min(self._port + number, MAX_PORT)
        self._places[track_id] = _Place(number, UDPClient(self._ip, port), Performer(body))
        log.info("--vmc: person %d goes to %s, port %d", track_id, self._host, port)
        return self._places[track_id]

    def _messages(self, pose: BonePose) -> Iterator[OscMessage]:
        """A performer's frame."""
        yield _message("/VMC/Ext/OK", 1)
        yield _message("/VMC/Ext/T", time.perf_counter() - self._start_s)
        yield _message("/VMC/Ext/Root/Pos", "root", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        for name, position_m, quaternion in zip(NAMES, pose.positions_m.tolist(), pose.quaternions.tolist(), strict=True):
            yield _message("/VMC/Ext/Bone/Pos", name, *position_m, *quaternion)

    def _send(self, client: UDPClient, messages: Iterator[OscMessage]) -> None:
        """In datagrams of MAX_BYTES at most. A network that takes nothing is said once; what it takes later arrives."""
        try:
            for bundle in _bundles(messages):
                client.send(bundle)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning(
                    "--vmc: nothing can be sent to %s (%s); it is tried again with every frame", self._host, error.strerror or error
                )
            self._failed = True


def _message(address: str, *values: str | float) -> OscMessage:
    builder = OscMessageBuilder(address)
    for value in values:
        builder.add_arg(value)
    return builder.build()


def _bundles(messages: Iterator[OscMessage]) -> Iterator[object]:
    """As many messages in each as fit."""
    builder, size = OscBundleBuilder(IMMEDIATELY), HEADER_BYTES
    for message in messages:
        if size + LENGTH_BYTES + message.size > MAX_BYTES:
            yield builder.build()
            builder, size = OscBundleBuilder(IMMEDIATELY), HEADER_BYTES
        builder.add_content(message)
        size += LENGTH_BYTES + message.size
    yield builder.build()
