"""Where training data and first weights come from, and what their licences allow: the table behind model cards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from core.registry import Registry

YES, NO, UNKNOWN = "yes", "no", "not known"
TRUNK_ROLE, MEDIAPIPE = "first weights of the backbone; Google trained them on photographs", "Apache-2.0 (The MediaPipe Authors)"
OFFICIAL = "official FastMETRO release"
UNRECORDED = "poses and backgrounds of the synthetic people"


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
    "imagenet": Source("ImageNet weights", "first weights of the backbone", "code BSD or MIT, photographs for research", UNKNOWN),
}.items():  # fmt: skip
    SOURCES.register(key)(source)

TRUNKS = {"blazepose": "blazepose", "blazepose-heavy": "blazepose-heavy", "resnet50": "imagenet", "hrnet-w64": "imagenet"}
"""Backbone -> where its first weights usually come from."""
MIX = "Tax-H36m-coco40k-Muco-UP-Mpii"
MIX_SOURCES = ("human3.6m", "coco_smpl", "muco", "up3d", "mpii")
"""METRO's composite of five data sets."""


def sources_of(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Source]:
    """What a checkpoint was made with, by its configuration and metadata: what it names itself, and what its parts imply.

    metadata["data"]["sources"] may name keys of SOURCES, or hold objects with Source's fields for others.
    """
    data = metadata.get("data") or {}
    keys, origin = [str(config.get("body", ""))], str(metadata.get("origin", ""))
    keys += [*MIX_SOURCES, "3dpw"] if origin.startswith(OFFICIAL) else []
    if not origin.startswith("random"):
        keys.append(TRUNKS.get(str(config.get("backbone", "")), ""))
    others: list[Source] = []
    for named in data.get("sources", []):
        if isinstance(named, Mapping):
            others.append(Source(*(str(named.get(name, UNKNOWN)) for name in ("name", "what", "licence", "commercial"))))
        elif named in SOURCES:
            keys.append(named)
        else:
            others.append(Source(str(named), UNKNOWN, UNKNOWN, UNKNOWN))
    real = tsv_sources(metadata)
    if not data.get("sources") and not real and not origin.startswith(OFFICIAL):
        others.append(Source(UNRECORDED, "poses, pictures behind people", "the file does not record them", UNKNOWN))
    keys += real
    unique = dict.fromkeys(key for key in keys if key in SOURCES)
    return [SOURCES[key] for key in unique] + others


def tsv_sources(metadata: Mapping[str, Any]) -> list[str]:
    """Keys of the data sets in the paths of a run's TSV training set."""
    train = ((metadata.get("run") or {}).get("data") or {}).get("train") or {}
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
