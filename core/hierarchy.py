"""Builds `MeshLevels` for a body from its template and some posed meshes (run once, at export)."""

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from core.mesh import NUM_COARSE, NUM_INTERMEDIATE, MeshLevels, edges_of

NEIGHBOURS = (10, 8)
"""Vertices of the level below that make one vertex: intermediate from coarse, full from intermediate."""
RIDGE = 1e-4
"""Pull of the fitted weights towards distance weights, in square metres."""


def build_levels(
    template_m: np.ndarray,
    faces: np.ndarray,
    posed_m: np.ndarray,
    density: np.ndarray | None = None,
    sizes: tuple[int, int] = (NUM_COARSE, NUM_INTERMEDIATE),
) -> MeshLevels:
    """Choose the levels' vertices and fit the up-sampling.

    template_m: (V, 3) rest mesh, metres      faces: (F, 3)
    posed_m: (S, V, 3) posed meshes of many shapes to fit on, each roughly centred
    density: (V,) larger where vertices should lie closer (hands, feet, head); 1 by default
    """
    density = np.ones(len(template_m)) if density is None else density
    graph, start = _surface_graph(template_m.astype(np.float64), faces, density)
    chosen = _farthest_points(graph, start, sizes[1])
    distances = dijkstra(graph, indices=chosen)
    coarse = chosen[: sizes[0]]
    coarse_owner, intermediate_owner = distances[: sizes[0]].argmin(0), distances.argmin(0)
    upsample = (
        _fit(posed_m, coarse, chosen, distances[: sizes[0]], NEIGHBOURS[0]),
        _fit(posed_m, chosen, np.arange(len(template_m)), distances, NEIGHBOURS[1]),
    )
    return MeshLevels(
        template_m=template_m.astype(np.float32),
        faces=faces.astype(np.int32),
        intermediate_faces=_dual_faces(faces, intermediate_owner).astype(np.int32),
        coarse_ids=coarse,
        intermediate_ids=chosen,
        coarse_adjacency=_dual_adjacency(faces, coarse_owner, sizes[0]),
        upsample=upsample,
    )


def _surface_graph(points: np.ndarray, faces: np.ndarray, density: np.ndarray) -> tuple[csr_matrix, int]:
    """Edge lengths, stretched by density, with loose parts (eyes) tied to the main part; and a start vertex on top of the head."""
    edges = edges_of(faces)
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1) * density[edges].mean(1)
    count = len(points)
    _, part = connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)), directed=False)
    main = np.flatnonzero(part == np.bincount(part).argmax())
    loose = np.flatnonzero(part != np.bincount(part).argmax())
    if len(loose):
        gap, nearest = cKDTree(points[main]).query(points[loose])
        edges = np.concatenate([edges, np.stack([loose, main[nearest]], 1)])
        lengths = np.concatenate([lengths, gap + 0.01])
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    graph = coo_matrix((np.tile(np.maximum(lengths, 1e-6), 2), (rows, columns)), shape=(count, count)).tocsr()
    return graph, int(main[points[main, 1].argmin()])


def _farthest_points(graph: csr_matrix, start: int, count: int) -> np.ndarray:
    """(count,) vertices, each the farthest along the surface from all before it."""
    chosen, nearest = [start], dijkstra(graph, indices=start)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, dijkstra(graph, indices=chosen[-1], limit=nearest.max() + 1e-9))
    return np.array(chosen)


def _dual_faces(faces: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Triangles between Voronoi cells: one wherever a full triangle touches three cells."""
    cells = owner[faces]
    distinct = (cells[:, 0] != cells[:, 1]) & (cells[:, 1] != cells[:, 2]) & (cells[:, 0] != cells[:, 2])
    cells = cells[distinct]
    _, first = np.unique(np.sort(cells, axis=1), axis=0, return_index=True)
    return cells[np.sort(first)]


def _dual_adjacency(faces: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    adjacency = np.eye(count, dtype=bool)
    pairs = owner[edges_of(faces)]
    adjacency[pairs[:, 0], pairs[:, 1]] = adjacency[pairs[:, 1], pairs[:, 0]] = True
    return adjacency


def _fit(posed_m: np.ndarray, sources: np.ndarray, targets: np.ndarray, distances: np.ndarray, neighbours: int) -> csr_matrix:
    """(targets, sources) weights: ridge regression of each target vertex on its nearest sources, summing to about 1.

    distances: (sources, V) along the surface. The pull is towards weights that fall off with distance.
    """
    near = np.argsort(distances[:, targets], axis=0)[:neighbours].T
    gap = np.take_along_axis(distances[:, targets].T, near, axis=1)
    prior = np.exp(-2 * (gap / (gap[:, 1:2] + 1e-9)) ** 2)
    prior /= prior.sum(1, keepdims=True)
    weights = np.empty_like(prior)
    for begin in range(0, len(targets), 1000):
        part = slice(begin, begin + 1000)
        design = posed_m[:, sources[near[part]]].astype(np.float64)
        gram = np.einsum("sdki,sdli->dkl", design, design, optimize=True) / len(posed_m)
        moment = np.einsum("sdki,sdi->dk", design, posed_m[:, targets[part]], optimize=True) / len(posed_m)
        gram += 1.0 + RIDGE * np.eye(neighbours)
        moment += 1.0 + RIDGE * prior[part]
        weights[part] = np.linalg.solve(gram, moment[..., None])[..., 0]
    itself = gap[:, 0] < 1e-9
    weights[itself] = np.eye(neighbours)[0]
    rows = np.repeat(np.arange(len(targets)), neighbours)
    return csr_matrix((weights.ravel().astype(np.float32), (rows, near.ravel())), shape=(len(targets), len(sources)))
