"""Batch sizes for which everything is prepared; a batch between two of them runs in the larger one."""

from collections.abc import Iterable

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def bucket_of(count: int, ready: Iterable[int] = ()) -> int:
    """The bucket for `count` crops: among `ready` the smallest that is less than four times as large, else the smallest there is.

    Small batches take about the same time on a GPU, so that one which is prepared is better than a pause to prepare another.
    Raises ValueError for no crops, and for more than the largest bucket takes.
    """
    if not 1 <= count <= BUCKETS[-1]:
        raise ValueError(f"bucket: got {count} crops, expected 1 to {BUCKETS[-1]}")
    tight = next(bucket for bucket in BUCKETS if bucket >= count)
    near = [bucket for bucket in ready if tight <= bucket < 4 * count]
    return min(near, default=tight)


def smaller(bucket: int) -> int:
    """The next smaller bucket than this one, 0 below the smallest."""
    return max((known for known in BUCKETS if known < bucket), default=0)
