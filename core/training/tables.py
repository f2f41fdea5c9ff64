"""Scores as tables, for terminals and for Markdown: one checkpoint by itself, or several side by side on the same sets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASH = "-"
"""What was not measured."""


@dataclass(frozen=True)
class Metric:
    """A number in a report. place: keys on the way to it; factor: from the report's unit to the table's."""

    label: str
    place: tuple[str, ...]
    decimals: int = 1
    factor: float = 1.0

    def of(self, report: Mapping[str, Any]) -> float | None:
        """The value in the table's unit; None where the report lacks it."""
        value: Any = report
        for key in self.place:
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else value * self.factor

    def text(self, value: float | None, signed: bool = False) -> str:
        """As a table shows it."""
        return DASH if value is None else f"{value:{'+' if signed else ''}.{self.decimals}f}"


PERSON_METRICS = (
    Metric("people", ("num_people",), 0),
    Metric("MPJPE mm", ("mpjpe_mm",)),
    Metric("PA-MPJPE mm", ("pa_mpjpe_mm",)),
    Metric("MPVPE mm", ("mpvpe_mm",)),
    Metric("MPVPE even mm", ("mpvpe_intermediate_mm",)),
    Metric("facing deg", ("facing_error_median_deg",)),
    Metric("off > 60 deg %", ("facing_over_60_deg",), 1, 100),
    Metric("off > 120 deg %", ("facing_over_120_deg",), 1, 100),
    Metric("2D error px", ("projection_error_px",)),
)
"""Of a group of people."""


def _below(prefix: str, label: str, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    return tuple(Metric(f"{label}{m.label}", (prefix, *m.place), m.decimals, m.factor) for m in metrics)


SET_METRICS = (
    *_below("overall", "", PERSON_METRICS),
    *_below("everyday", "everyday poses: ", PERSON_METRICS[:5]),
    *_below("parametric", "parametric ", PERSON_METRICS[1:5]),
    Metric("acceleration error m/s2", ("motion", "acceleration_error_m_s2"), 2),
    Metric("acceleration error mm/frame2", ("motion", "acceleration_error_mm_frame2"), 2),
    Metric("jitter m/s2", ("motion", "jitter_m_s2"), 2),
    Metric("true jitter m/s2", ("motion", "true_jitter_m_s2"), 2),
    Metric("frames in tracks", ("motion", "num_frames"), 0),
    Metric("PCK@0.1", ("pck", "pck"), 3),
)
"""Of a whole set with 3D truth."""
KEYPOINT_METRICS = (
    Metric("people", ("num_people",), 0),
    Metric("visible keypoints", ("num_visible",), 0),
    Metric("PCK@0.1", ("pck",), 3),
    Metric("PCK@0.1 with hidden ones", ("pck_labelled",), 3),
)
"""Of a set with COCO's keypoints."""
COUNTS = {"people", "everyday poses: people", "visible keypoints", "frames in tracks", "true jitter m/s2"}
"""Facts about a set, not about a checkpoint: the same for all, and no difference is shown."""
GROUPS = {"families": "pose families", "pose_kinds": "kinds of pose", "group": "bodies", "framing": "framing"}
"""Keys of a report under which people are grouped -> what tables call that."""


@dataclass(frozen=True)
class Table:
    """Cells of text. The first column is set left, the others right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """For a terminal."""
        cells = [(self.title, *self.header[1:]), *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        lines = []
        for first, *others in cells:
            padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """For a page; the title is the caller's heading."""
        lines = [self.header, tuple("---" if column == 0 else "---:" for column in range(len(self.header))), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def sets_of(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of a set -> its scores, over all kinds of sets in a report; of paths the last two parts, so that machines can be compared."""
    found = {"synthetic people": report["synthetic"]} if "synthetic" in report else {}
    for kind, word in (("tsv", "TSV"), ("keypoints", "COCO keypoints")):
        found |= {f"{word} {'/'.join(Path(name).parts[-2:])}": scores for name, scores in report.get(kind, {}).items()}
    return found


def metrics_of(scores: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The rows that fit a set's kind."""
    return KEYPOINT_METRICS if "pck_labelled" in scores else SET_METRICS


def people_table(title: str, scores: Mapping[str, Any], group: str = "families") -> Table:
    """A row for everybody and one for each group, a column for each metric that was measured."""
    named = {"overall": scores.get("overall", {})}
    if group == "families" and "everyday" in scores:
        named["everyday poses"] = scores["everyday"]
    named |= scores.get(group, {})
    metrics = [m for m in PERSON_METRICS if any(m.of(row) is not None for row in named.values())]
    rows = tuple((name, *(m.text(m.of(row)) for m in metrics)) for name, row in named.items())
    return Table(title, ("", *(m.label for m in metrics)), rows)


def comparison_table(title: str, names: list[str], scores: list[Mapping[str, Any]]) -> Table:
    """A row for each metric, a column for each checkpoint, and how the last differs from the first."""
    metrics = [m for m in metrics_of(scores[0]) if any(m.of(row) is not None for row in scores)]
    rows = tuple((m.label, *_values(m, scores)) for m in metrics)
    return Table(title, ("", *names, *_change_header(names)), rows)


def group_comparison(title: str, names: list[str], scores: list[Mapping[str, Any]], group: str, metric: Metric) -> Table:
    """A row for each pose family or kind: how many people, and a column for each checkpoint."""
    families = list(dict.fromkeys(family for row in scores for family in row.get(group, {})))
    rows = []
    for family in families:
        members = [row.get(group, {}).get(family, {}) for row in scores]
        count = PERSON_METRICS[0].text(PERSON_METRICS[0].of(next(member for member in members if member)))
        rows.append((family, count, *_values(metric, members)))
    return Table(f"{title}: {metric.label}", ("", "people", *names, *_change_header(names)), tuple(rows))


def joint_table(title: str, names: list[str], scores: list[Mapping[str, Any]]) -> Table:
    """A row for each joint; MPJPE, PA-MPJPE or PCK of each checkpoint, whichever the set has."""
    kinds = (("joints_mm", "MPJPE mm", 0), ("aligned_joints_mm", "PA-MPJPE mm", 0), ("joints", "PCK", 2))
    present = [kind for kind in kinds if any(kind[0] in row for row in scores)]
    joints = list(dict.fromkeys(joint for key, _, _ in present for row in scores for joint in row.get(key, {})))
    columns = [(row, key, decimals) for key, _, decimals in present for row in scores]

    def cell(row: Mapping[str, Any], key: str, decimals: int, joint: str) -> str:
        metric = Metric(joint, (key, joint), decimals)
        return metric.text(metric.of(row))

    header = ("", *(f"{word} {name}".strip() for _, word, _ in present for name in (names if len(names) > 1 else [""])))
    rows = tuple((joint, *(cell(*column, joint) for column in columns)) for joint in joints)
    return Table(title, header, rows)


def _values(metric: Metric, scores: list[Mapping[str, Any]]) -> list[str]:
    values = [metric.of(row) for row in scores]
    cells = [metric.text(value) for value in values]
    if len(values) > 1:
        known = values[0] is not None and values[-1] is not None and metric.label not in COUNTS
        cells.append(metric.text(values[-1] - values[0], signed=True) if known else "")
    return cells


def _change_header(names: list[str]) -> list[str]:
    return ["change"] if len(names) > 1 else []


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """Everything about one checkpoint."""
    tables = []
    for name, scores in sets_of(report).items():
        if "overall" in scores:
            tables += [people_table(name if group == "families" else f"{name}, by {GROUPS[group]}", scores, group)
                       for group in GROUPS if group == "families" or group in scores]  # fmt: skip
        rest = [m for m in metrics_of(scores) if m.place[0] not in ("overall", "everyday") and m.of(scores) is not None]
        if rest:
            tables.append(Table(name, ("", "value"), tuple((m.label, m.text(m.of(scores))) for m in rest)))
        tables.append(joint_table(f"{name}, by joint", [""], [scores]))
    return tables


def comparison_tables(names: list[str], reports: list[Mapping[str, Any]]) -> list[Table]:
    """Checkpoints side by side on the sets that all of them were scored on."""
    sets = [sets_of(report) for report in reports]
    tables = []
    for name in (name for name in sets[0] if all(name in other for other in sets)):
        scores = [other[name] for other in sets]
        tables.append(comparison_table(name, names, scores))
        tables += [
            group_comparison(f"{name}, by {GROUPS[group]}", names, scores, group, metric)
            for group in GROUPS if any(group in row for row in scores) for metric in PERSON_METRICS[1:3]
        ]  # fmt: skip
        tables.append(joint_table(f"{name}, by joint", names, scores))
    return tables
