"""The 14 joints of FastMETRO, and index maps drawn from names."""

JOINT_NAMES: tuple[str, ...] = (
    "R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle", "R_Wrist", "R_Elbow", "R_Shoulder",
    "L_Shoulder", "L_Elbow", "L_Wrist", "Neck", "Head",
)  # fmt: skip
"""Order of the joint tokens, of `joints_m` and of every file that we write."""

LIMB_JOINT_NAMES: tuple[str, ...] = JOINT_NAMES[:12]

KEYPOINT_NAMES: tuple[str, ...] = (
    "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist",
    "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle", "R_Ankle",
)  # fmt: skip
"""COCO's 17 keypoints, in its order, under our names."""

BONES: tuple[tuple[str, str], ...] = (
    ("R_Ankle", "R_Knee"), ("R_Knee", "R_Hip"), ("R_Hip", "L_Hip"), ("L_Hip", "L_Knee"), ("L_Knee", "L_Ankle"),
    ("R_Wrist", "R_Elbow"), ("R_Elbow", "R_Shoulder"), ("R_Shoulder", "L_Shoulder"),
    ("L_Shoulder", "L_Elbow"), ("L_Elbow", "L_Wrist"), ("R_Shoulder", "R_Hip"), ("L_Shoulder", "L_Hip"),
    ("Neck", "Head"),
)  # fmt: skip
"""Pairs of joints that a skeleton drawing connects."""


def indices(names: tuple[str, ...], among: tuple[str, ...] = JOINT_NAMES) -> list[int]:
    """Positions of `names` in `among`; raises ValueError for a name that is not there."""
    return [among.index(name) for name in names]


def mirrored(names: tuple[str, ...] = JOINT_NAMES) -> list[int]:
    """For each joint the index of its mirror image: R_ and L_ swapped, the middle kept."""
    swap = {"R": "L", "L": "R"}
    return [names.index(f"{swap[n[0]]}{n[1:]}") if n[1:2] == "_" else names.index(n) for n in names]


HIPS = indices(("R_Hip", "L_Hip"))
ANKLES = indices(("R_Ankle", "L_Ankle"))
