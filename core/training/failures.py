"""What an evaluation shows to be worst, in sentences for a model card."""

from collections.abc import Mapping
from typing import Any

from core.training.tables import GROUPS, sets_of

MIN_PEOPLE = 10
"""A smaller group says nothing."""
WORSE = 1.15
"""A group this many times worse than everybody is told."""
NUM_WORST = 4
GOOD_PCK = 0.9


def known_failures(report: Mapping[str, Any]) -> list[str]:
    """Sentences with figures; none where there is nothing to say."""
    lines = []
    for name, scores in sets_of(report).items():
        for what in (_groups, _facing, _joints, _keypoints, _motion, _broken):
            lines += [f"{name}: {line}" for line in what(scores)]
    return lines


def _groups(scores: Mapping[str, Any]) -> list[str]:
    """Families and kinds of pose that are clearly worse than the whole."""
    lines = []
    for group, called in GROUPS.items():
        everybody = scores.get("overall", {}).get("pa_mpjpe_mm")
        rows = {name: row for name, row in scores.get(group, {}).items() if row["num_people"] >= MIN_PEOPLE}
        worst = sorted(rows, key=lambda name: -rows[name]["pa_mpjpe_mm"])[:NUM_WORST]
        told = [f"{name} {rows[name]['pa_mpjpe_mm']:.0f}" for name in worst if everybody and rows[name]["pa_mpjpe_mm"] > WORSE * everybody]
        if told:
            lines.append(f"worst {called} by PA-MPJPE, mm: {', '.join(told)} (everybody {everybody:.0f})")
    return lines


def _facing(scores: Mapping[str, Any]) -> list[str]:
    overall = scores.get("overall", {})
    limits = [(60, overall.get("facing_over_60_deg")), (120, overall.get("facing_over_120_deg"))]
    told = [f"{100 * share:.1f} % by more than {limit} degrees" for limit, share in limits if share]
    return [f"people turned the wrong way: {', '.join(told)}"] if told else []


def _joints(scores: Mapping[str, Any]) -> list[str]:
    joints = scores.get("joints_mm", {})
    worst = sorted(joints, key=lambda name: -joints[name])[:NUM_WORST]
    return [f"worst joints, mm after centring on the hips: {', '.join(f'{name} {joints[name]:.0f}' for name in worst)}"] if worst else []


def _keypoints(scores: Mapping[str, Any]) -> list[str]:
    joints = scores.get("joints", {})
    worst = [name for name in sorted(joints, key=lambda name: joints[name])[:NUM_WORST] if joints[name] < GOOD_PCK]
    return [f"worst joints, share of visible keypoints found: {', '.join(f'{name} {joints[name]:.2f}' for name in worst)}"] if worst else []


def _motion(scores: Mapping[str, Any]) -> list[str]:
    motion = scores.get("motion")
    if not motion or motion["jitter_m_s2"] <= WORSE * motion["true_jitter_m_s2"]:
        return []
    estimated, true = motion["jitter_m_s2"], motion["true_jitter_m_s2"]
    return [f"frame by frame it trembles: acceleration {estimated:.1f} m/s2, the people's own is {true:.1f}"]


def _broken(scores: Mapping[str, Any]) -> list[str]:
    count = scores.get("broken_samples")
    return [f"{count} samples of the set are broken and were not measured"] if count else []
