import numpy as np
import pytest

from core.training.sequences import frame_name, tracks

ANNA, BORIS = np.full(10, 0.5), np.full(10, -0.25)


@pytest.mark.parametrize(
    ("key", "sequence", "frame", "rate", "family"),
    [
        ("downtown_walking_00/image_00012.jpg", "downtown_walking_00", 12, 30.0, "downtown_walking"),
        ("imageFiles/office_phoneCall_00/image_00345.jpg", "imageFiles/office_phoneCall_00", 345, 30.0, "office_phoneCall"),
        ("S11_Directions_1.54138969_000006.jpg", "S11_Directions_1.54138969", 6, 50.0, "Directions"),
        ("images/S9_WalkDog.60457274_001421.jpg", "images/S9_WalkDog.60457274", 1421, 50.0, "WalkDog"),
        ("S9_Sitting 1.55011271_000001.jpg", "S9_Sitting 1.55011271", 1, 50.0, "Sitting"),
        ("COCO_train2014_000000000009.jpg", "", -1, 0.0, ""),
        ("015601864.jpg", "", -1, 0.0, ""),
    ],
)
def test_names_of_the_data_sets(key: str, sequence: str, frame: int, rate: float, family: str) -> None:
    name = frame_name(key)
    assert (name.sequence, name.frame, name.frames_per_s, name.family) == (sequence, frame, rate, family)


def key(frame: int, sequence: str = "courtyard_dancing_00") -> str:
    return f"{sequence}/image_{frame:05d}.jpg"


def test_people_are_told_apart_by_shape_and_put_in_order() -> None:
    frames = [(2, BORIS), (0, ANNA), (1, BORIS), (2, ANNA), (0, BORIS), (1, ANNA)]
    found = tracks([key(frame) for frame, _ in frames], [shape for _, shape in frames])
    assert sorted(track.rows.tolist() for track in found) == [[1, 5, 3], [4, 2, 0]]
    assert {track.frames_per_s for track in found} == {30.0}


def test_without_shapes_their_order_in_a_picture_counts() -> None:
    frames = [0, 0, 1, 1, 2, 2]
    found = tracks([key(frame) for frame in frames], [None] * 6)
    assert [track.rows.tolist() for track in found] == [[0, 2, 4], [1, 3, 5]]


def test_a_gap_parts_and_short_rests_are_left_out() -> None:
    frames = [0, 1, 2, 3, 10, 11, 12, 20, 21]
    found = tracks([key(frame) for frame in frames], [ANNA] * 9)
    assert [track.rows.tolist() for track in found] == [[0, 1, 2, 3], [4, 5, 6]]


def test_every_fifth_frame_is_a_fifth_of_the_rate() -> None:
    keys = [f"S11_Eating.54138969_{frame:06d}.jpg" for frame in (1, 6, 11, 16)]
    (track,) = tracks(keys, [None] * 4)
    assert track.frames_per_s == 10.0


def test_sequences_do_not_mix_and_single_pictures_are_none() -> None:
    keys = [key(0), key(1), key(2, "other_00"), "COCO_1.jpg", "COCO_2.jpg", "COCO_3.jpg"]
    assert tracks(keys, [ANNA] * 6) == []


def test_the_same_person_twice_in_a_frame_is_no_motion() -> None:
    found = tracks([key(frame) for frame in (0, 0, 1, 2, 3)], [ANNA] * 5)
    assert all(len(set(track.rows.tolist())) == len(track.rows) for track in found)
    assert max(len(track.rows) for track in found) == 4
