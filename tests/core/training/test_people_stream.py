"""Synthetic people as an endless data set."""

import pickle

import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.errors import InputError
from core.joints import JOINT_NAMES
from core.training.people import BLOCK_SIZE
from core.training.people_config import VALIDATION_SEED, PeopleConfig
from core.training.samples import open_dataset
from core.training.shards import load_pictures, load_shard
from core.training.synthesize import SIGNATURE, SynthesisConfig, main, synthesize
from tests.toy import ToyBody


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


@pytest.fixture(scope="module")
def stream(body):
    return open_dataset("synthetic", body, {"seed": 3, "epoch": 10})


def same(first, second):
    return np.array_equal(first.image, second.image) and np.array_equal(first.vertices_m, second.vertices_m)


def keep(samples):
    return samples


def test_person_i_is_the_same_whatever_the_order_and_the_workers(body, stream):
    """Also after pickling, in two processes that take turns, and when only that one is asked for."""
    wanted = [0, 5, BLOCK_SIZE + 1]  # the first crowd is for all of them
    samples = [stream[index] for index in wanted]
    loader = torch.utils.data.DataLoader(stream, sampler=wanted[::-1], batch_size=1, num_workers=2, collate_fn=keep)
    assert all(same(first, batch[0]) for first, batch in zip(samples[::-1], loader, strict=True))
    alone = pickle.loads(pickle.dumps(stream))  # noqa: S301 - our own
    assert same(alone[BLOCK_SIZE + 1], samples[2])
    assert not same(samples[0], samples[1])


def test_it_never_ends_and_needs_no_files(stream):
    assert stream.endless and len(stream) == 10
    sample = stream[10**7]
    assert sample.image.shape == (224, 224, 3) and sample.family
    hips = [JOINT_NAMES.index(f"{side}_Hip") for side in "LR"]
    assert np.abs(sample.joints_3d[hips, :3].mean(0)).max() < 1e-5


def test_shards_hold_the_people_of_the_stream(tmp_path, stream):
    synthesize(SynthesisConfig(tmp_path, 3, PeopleConfig(seed=3)))
    shard, pictures = load_shard(tmp_path / "shard-00000.npz"), load_pictures(tmp_path / "shard-00000.npz")
    for index in range(3):
        np.testing.assert_array_equal(pictures.decoded(index), stream[index].image)
        np.testing.assert_allclose(shard.truth.joints_m[index], stream[index].joints_3d_m[:, :3])
        assert shard.family_names[shard.truth.family[index]] == stream[index].family


def test_people_are_levelled_as_asked_in_training_alone(body):
    hips, neck = [JOINT_NAMES.index("R_Hip"), JOINT_NAMES.index("L_Hip")], JOINT_NAMES.index("Neck")

    def leaning(**options):
        people = open_dataset("synthetic", body, {"seed": 3, "recorded_share": 0.0, **options})
        joints = np.stack([people[index].joints_3d_m[:, :3] for index in range(32)])
        trunk = joints[:, neck] - joints[:, hips].mean(1)
        return np.degrees(np.abs(np.arctan2(trunk[:, 0], -trunk[:, 1])))

    assert (leaning(levelled_share=1.0) > 60).sum() <= 2, "the error of an estimate is seldom that large"
    as_posed = leaning(levelled_share=0.0)
    assert (as_posed > 60).sum() >= 3, "some lie"
    np.testing.assert_array_equal(leaning(validation=True, levelled_share=1.0), leaning(validation=True, levelled_share=0.0))


def test_validation_people_are_apart(body):
    validation = open_dataset("synthetic", body, {"validation": True})
    assert validation.config.seed == VALIDATION_SEED and validation.config.held_out
    training = open_dataset("synthetic", body, {})
    assert not same(validation[0], training[0])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seed": VALIDATION_SEED}, "got seed"), ({"epoch": 0}, "epoch"), ({"recorded_share": 2}, "recorded_share"),
        ({"levelled_share": -1}, "levelled_share"),
        ({"backgrounds": "nowhere"}, "not found"), ({"poses": "nowhere"}, "not found"), ({"pose": "x"}, "its options are"),
    ],
)  # fmt: skip
def test_bad_options_give_one_line(body, options, complaint):
    with pytest.raises(InputError, match=complaint):
        open_dataset("synthetic", body, options)


def test_other_bodies_are_refused():
    with pytest.raises(InputError, match="shows the body 'anny'"):
        open_dataset("synthetic", ToyBody(), {})


def test_the_command_makes_shards_and_refuses_to_mix_them(tmp_path, capfd):
    out = tmp_path / "people"
    command = ["--out", str(out), "--count", "2", "--poses", "--validation"]
    assert main(command) == 0
    with np.load(out / "shard-00000.npz") as stored:
        assert stored["seed"] == VALIDATION_SEED and stored["vertices_m"].shape[0] == 2
    assert main(command) == 0  # goes on: nothing left to do
    for changes, complaint in ((["--seed", "5"], "seed 1000000000 instead of 1000000005"), (["--poses", "nowhere"], "nowhere: not found"),
                               (["--count", "0"], "0 pictures"), (["--recorded-share", "3"], "share"), (["--seed", "-1"], "got seed -1"),
                               (["--backgrounds", str(tmp_path / "none")], "none: not found")):  # fmt: skip
        assert main([*command, *changes]) == 1
        said = capfd.readouterr().err.strip().splitlines()
        assert complaint in said[-1] and "Traceback" not in " ".join(said)
    (out / SIGNATURE).unlink()
    assert main(command) == 1 and "older kind" in capfd.readouterr().err
