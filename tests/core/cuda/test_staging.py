import pytest
import torch
from torch import Tensor

from core.cuda.staging import Downloads, Uploads
from tests.core.cuda.pretend import PretendDevice

STREAMS = [
    (),
    ("compute",),
    ("uploads",),
    ("downloads",),
    ("compute", "uploads"),
    ("compute", "downloads"),
    ("uploads", "compute", "downloads"),
]
pytestmark = pytest.mark.parametrize("early", STREAMS, ids="+".join)


def test_what_is_sent_arrives_however_late_or_early(early: tuple[str, ...]) -> None:
    device = PretendDevice(early)
    uploads, seen = Uploads(device), []
    batch = torch.zeros(3, 5, dtype=torch.uint8)
    for number in range(1, 8):
        batch.fill_(number)  # the caller may do so: what was sent before must be safe
        there, used = uploads.send(batch[: 1 + number % 3])
        place = torch.zeros_like(there)
        device.run(device.compute, lambda place=place, there=there: place.copy_(there))
        used.record(device.compute)
        seen.append((number, place))
    batch.fill_(99)
    device.synchronize()
    for number, place in seen:
        assert place.shape == (1 + number % 3, 5)
        assert (place == number).all()


def test_strided_views_are_sent_as_they_look(early: tuple[str, ...]) -> None:
    device = PretendDevice(early)
    frame = torch.arange(4 * 6 * 3, dtype=torch.uint8).view(4, 6, 3)
    there, _ = Uploads(device).send(frame[1:3, 2:5])
    device.synchronize()
    assert torch.equal(there, frame[1:3, 2:5])


def test_results_outlive_the_next_ones(early: tuple[str, ...]) -> None:
    device = PretendDevice(early)
    downloads, output = Downloads(device), torch.zeros(4, 3)
    waiting: list[tuple[int, Tensor, object]] = []
    for number in range(1, 7):
        device.run(device.compute, lambda number=number: output.fill_(number))
        waiting.append((number, *downloads.fetch(output[: 1 + number % 4])))
    for number, host, done in reversed(waiting):
        done.synchronize()
        assert host.shape == (1 + number % 4, 3)
        assert (host == number).all()
    assert len({host.data_ptr() for _, host, _ in waiting}) == len(waiting)
