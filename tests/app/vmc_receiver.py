"""Receivers of the VMC protocol, which is OSC over UDP."""

import socket

from pythonosc.osc_bundle import OscBundle

from app.export.vmc import MAX_BYTES


def received(receiver: socket.socket) -> list[tuple]:
    """(address, values...) of every message that came; datagrams are as small as networks like them."""
    messages = []
    while True:
        try:
            datagram = receiver.recv(1 << 16)
        except TimeoutError:
            return messages
        assert len(datagram) <= MAX_BYTES
        messages += [(message.address, *message.params) for message in OscBundle(datagram)]
