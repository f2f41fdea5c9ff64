import pytest
import torch

from core.geometry import hip_centred
from core.joints import HIPS
from core.training.watch import NotFiniteError, Watch


class FakeBatch:
    """Only passed on."""


def late_watch() -> Watch:
    watch = Watch(torch.device("cpu"))
    assert not watch.late
    watch.late = True
    return watch


def test_a_gpu_is_asked_about_a_step_after_the_next_one() -> None:
    watch, good, bad = late_watch(), FakeBatch(), FakeBatch()
    watch.passed(torch.tensor(1.0), torch.tensor(2.0), good, 0)
    watch.passed(torch.tensor(torch.nan), torch.tensor(2.0), bad, 32)
    with pytest.raises(NotFiniteError, match="the loss is nan after 32 samples") as error:
        watch.passed(torch.tensor(1.0), torch.tensor(2.0), good, 64)
    assert error.value.batch is bad
    watch.settle()  # what came after it was fine


def test_the_last_step_is_settled_before_weights_are_used() -> None:
    watch, bad = late_watch(), FakeBatch()
    watch.settle()
    watch.passed(torch.tensor(1.0), torch.tensor(torch.inf), bad, 7)
    with pytest.raises(NotFiniteError, match="the gradient is inf after 7 samples"):
        watch.settle()
    watch.settle()


def test_a_step_that_is_no_number_moves_no_weight() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    watch = late_watch()
    for gradient, loss, moves in ((1.0, 1.0, True), (torch.nan, 1.0, False), (1.0, torch.nan, False), (1.0, 1.0, True)):
        before = weight.detach().clone()
        weight.grad = torch.full((3,), gradient)
        watch.hold_still(optimizer, torch.tensor(loss), weight.grad.norm())
        optimizer.step()
        assert torch.equal(weight.detach(), before) != moves
    assert float(optimizer.state[weight]["step"]) == 2  # steps that were left out do not count


def test_hips_are_centred_as_a_mean_would() -> None:
    joints = torch.randn(5, 14, 3)
    assert torch.equal(hip_centred(joints), joints - joints[:, HIPS].mean(1, keepdim=True))
