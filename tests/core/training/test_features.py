from pathlib import Path

import numpy as np
import pytest
import torch

from core.crop import CROP_SCALE, zoomed
from core.errors import InputError
from core.geometry import project
from core.training.batches import People
from core.training.features import cache_features, features_of, fingerprint, follow_shards, main, open_cache
from core.training.shards import list_shards, load_pictures, load_shard
from tests.core.training.toy_people import write_toy_shards
from tests.toy import ToyBackbone


def backbone(seed: int = 0) -> ToyBackbone:
    torch.manual_seed(seed)
    return ToyBackbone().eval()


def test_cached_features_give_what_the_pictures_give(tmp_path: Path) -> None:
    network = backbone()
    write_toy_shards(tmp_path, num_shards=2, count=5)
    cache = open_cache(tmp_path, "toy", network)
    assert cache_features(list_shards(tmp_path), cache, network, "fp32") == []
    batch = People(tmp_path, cache).gather(np.array([0, 4, 5, 9]))
    for row, (shard, index) in enumerate([(0, 0), (0, 4), (1, 0), (1, 4)]):
        picture = load_pictures(list_shards(tmp_path)[shard]).decoded(index)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            torch.testing.assert_close(network.tail(batch.features[0][row : row + 1]), network(image), rtol=2e-2, atol=2e-3)


def test_a_network_with_smaller_crops_is_shown_the_middle(tmp_path: Path) -> None:
    """The same people, their truth in the crops that the network sees; a cache of other crops is not taken for them."""
    network = backbone()
    write_toy_shards(tmp_path, num_shards=1, count=4)
    cache = open_cache(tmp_path, "toy", network, crop_scale=1.2)
    assert cache_features(list_shards(tmp_path), cache, network, "fp32") == []
    people, rows, by = People(tmp_path, cache), np.arange(4), CROP_SCALE / 1.2
    batch, truth = people.gather(rows), load_shard(list_shards(tmp_path)[0]).truth
    pictures = load_pictures(list_shards(tmp_path)[0])
    image = torch.from_numpy(np.stack([zoomed(pictures.decoded(row), by) for row in rows])).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(network.tail(*batch.features), network(image), rtol=2e-2, atol=2e-3)
    targets = batch.targets
    np.testing.assert_allclose(targets.joints_crop, truth.joints_crop * by, rtol=1e-6)
    wide = project(targets.joints_m, torch.from_numpy(truth.camera))
    torch.testing.assert_close(project(targets.joints_m, targets.camera), by * wide)
    beyond = (np.abs(truth.joints_crop * by) >= 1).any(-1)
    assert not targets.joint_visibility.numpy()[beyond].any()
    np.testing.assert_array_equal(targets.joint_visibility.numpy()[~beyond], truth.joint_visibility[~beyond])
    with pytest.raises(InputError, match="delete the folder"):
        open_cache(tmp_path, "toy", network)


def test_a_network_with_wider_crops_than_the_pictures_is_refused(tmp_path: Path) -> None:
    network = backbone()
    write_toy_shards(tmp_path, num_shards=1, count=4)
    cache = open_cache(tmp_path, "toy", network, crop_scale=1.5)
    with pytest.raises(InputError, match=r"holds crops of 1.35 times the box, but the network wants 1.5; make others .*--crop-scale 1.5"):
        cache_features(list_shards(tmp_path), cache, network, "fp32")


def test_finished_shards_are_left_alone_and_broken_ones_reported(tmp_path: Path) -> None:
    network = backbone()
    write_toy_shards(tmp_path, num_shards=3, count=3)
    cache = open_cache(tmp_path, "toy", network)
    paths = list_shards(tmp_path)
    paths[2].write_bytes(b"broken")
    assert follow_shards(tmp_path, cache, network, "fp32", until=3) == (2, 1)
    stamps = [path.stat().st_mtime_ns for path in cache.paths(paths[0])]
    cache.paths(paths[1])[0].unlink()
    cache_features(paths[:2], cache, network, "fp32")
    assert [path.stat().st_mtime_ns for path in cache.paths(paths[0])] == stamps
    assert cache.finished(paths) == paths[:2]
    assert not list(cache.folder.glob("*.tmp"))


def test_the_batch_size_does_not_matter(tmp_path: Path) -> None:
    pictures = load_pictures(list_shards(write_toy_shards(tmp_path, 1, 7))[0])
    one, many = (features_of(pictures, backbone(), "fp32", batch_size)[0] for batch_size in (1, 7))
    np.testing.assert_allclose(one, many, atol=2e-3)
    assert one.dtype == np.float16
    assert one.shape == (7, 7, 7, 8)


def test_other_frozen_weights_are_refused_but_a_trained_tail_is_welcome(tmp_path: Path) -> None:
    write_toy_shards(tmp_path, 1, 3)
    network = backbone()
    open_cache(tmp_path, "toy", network).begin()
    with torch.no_grad():
        network.mix.weight.add_(1.0)
    open_cache(tmp_path, "toy", network)
    assert fingerprint(network) != fingerprint(backbone(1))
    with pytest.raises(InputError, match="delete the folder"):
        open_cache(tmp_path, "toy", backbone(1))


def test_only_who_makes_features_writes(tmp_path: Path) -> None:
    network = backbone()
    (path,) = list_shards(write_toy_shards(tmp_path, 1, 3))
    cache = open_cache(tmp_path, "toy", network)
    assert list(tmp_path.iterdir()) == [path]
    cache_features([path], cache, network, "fp32")
    assert {file.name for file in cache.folder.iterdir()} == {"backbone.json", "shard-00000.0.npy"}


def test_features_that_are_missing_damaged_or_of_another_shard_are_named(tmp_path: Path) -> None:
    network = backbone()
    write_toy_shards(tmp_path, 1, 4)
    cache = open_cache(tmp_path, "toy", network)
    with pytest.raises(InputError, match=r"core\.training\.features"):
        People(tmp_path, cache)
    cache_features(list_shards(tmp_path), cache, network, "fp32")
    write_toy_shards(tmp_path, 1, 5)
    with pytest.raises(InputError, match="another shard"):
        People(tmp_path, cache)
    cache.paths(list_shards(tmp_path)[0])[0].write_bytes(b"no array")
    with pytest.raises(InputError, match="delete it"):
        People(tmp_path, cache)


def test_the_command_tells_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shards", str(tmp_path), "--variant", "fastmetro-xs-blazepose", "--trunk", "nowhere.safetensors"]) == 1
    assert "core.training.synthesize" in capsys.readouterr().err
