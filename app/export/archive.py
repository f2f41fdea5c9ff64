"""Everybody's motion in one .zip: for each person a file of every format that holds one skeleton."""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from app.export import bvh, fbx, vrma
from app.export.cast import Cast, ContentOf, file_name
from app.export.sink import whole

FORMATS: dict[str, ContentOf] = {bvh.SUFFIX: bvh.bvh_of, fbx.SUFFIX: fbx.fbx_of, vrma.SUFFIX: vrma.vrma_of}


def write_motion(npz_path: Path, zip_path: Path) -> None:
    """The archive of a meshes.npz. Raises InputError as Cast.read does, OSError for what cannot be written; leaves nothing behind then."""
    cast = Cast.read(npz_path)
    with whole(zip_path) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as archive:
        for actor in cast.actors():
            for suffix, content_of in FORMATS.items():
                archive.writestr(file_name(actor, suffix), content_of(cast, actor))
