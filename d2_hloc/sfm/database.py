"""COLMAP's database: images, keypoints, matches, and their geometric verification."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.core.names import has_space
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import unfinished_name
from d2_hloc.files.checked_arrays import check_matches
from d2_hloc.files.colmap import open_database, pycolmap, verified_pairs
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.matching.pairs import Pair, unique, write_pairs
from d2_hloc.matching.tracks import PairMatches
from d2_hloc.sfm.cameras.rigs import write_rigs
from d2_hloc.sfm.cameras.sharing import NO_ID
from d2_hloc.sfm.options import ReconstructionOptions, VerificationOptions
from d2_hloc.sfm.two_view import Config, by_poselib, colmap_options, verify_pair
from d2_hloc.sfm.verification import Sources, enlargements, verify_pairs

Links = Mapping[str, Mapping[str, int]]  # verified matches by image and by image

VERIFY_CHUNK = 200  # pairs a call: progress between them, and a kill loses no more
HOPELESS = 3.0  # log10 of false alarms: no pair of a model was above (docs/geometry.md)


def build_database(
    path: Path,
    cameras: Mapping[str, pycolmap.Camera],
    pairs: Sequence[Pair],
    features: Path,
    matches: Path,
    rigs: pycolmap.Reconstruction | None = None,
) -> Path:
    """A COLMAP database of images, keypoints and matches; it appears whole or not at all.

    Images whose cameras have one id have one camera. Images without features are left out, and so
    are pairs with fewer than one match. `rigs` is a model of the images whose rigs are written too.

    Raises:
        StorageError: if a pair was not matched, or its matches do not belong to the features.
    """
    part = unfinished_name(path)
    with pycolmap.Database.open(part) as database, features_h5.open_h5(features) as file:
        names = [name for name in sorted(cameras) if name in file]
        camera_ids = _write_cameras(database, {name: cameras[name] for name in names})
        ids = {
            name: database.write_image(pycolmap.Image(name=name, camera_id=camera_ids[name]))
            for name in names
        }
        if rigs is not None:
            write_rigs(database, rigs, ids, camera_ids)
        counts = {name: _write_keypoints(database, ids[name], file, name) for name in names}
        _write_matches(database, pairs, ids, counts, matches)
    part.replace(path)
    return path


def _write_cameras(
    database: pycolmap.Database, cameras: Mapping[str, pycolmap.Camera]
) -> dict[str, int]:
    """The database's camera of each image: one for all whose cameras have the same id."""
    written: dict[int, int] = {}
    ids = {}
    for name, camera in cameras.items():
        if camera.camera_id == NO_ID:
            ids[name] = database.write_camera(camera)
        else:
            if camera.camera_id not in written:
                written[camera.camera_id] = database.write_camera(camera)
            ids[name] = written[camera.camera_id]
    return ids


def _write_keypoints(
    database: pycolmap.Database, image_id: int, file: GuardedFile, name: str
) -> int:
    keypoints = features_h5.keypoints_of(file, name)
    database.write_keypoints(image_id, to_colmap(keypoints).astype(np.float32))
    return len(keypoints)


def _write_matches(
    database: pycolmap.Database,
    pairs: Sequence[Pair],
    ids: Mapping[str, int],
    counts: Mapping[str, int],
    path: Path,
) -> None:
    with features_h5.open_h5(path) as file:
        for name0, name1 in tqdm(unique(pairs), desc="import matches", unit="pair", leave=False):
            if name0 not in ids or name1 not in ids:
                continue
            if database.exists_matches(ids[name0], ids[name1]):
                continue
            found = features_h5.matches_of(file, name0, name1).pairs.numpy()
            check_matches(found, counts[name0], counts[name1], f"{path}: {name0} {name1}")
            if len(found):
                database.write_matches(ids[name0], ids[name1], found.astype(np.uint32))


def verified_matches(
    database: Path, matches: Path, wanted: Callable[[Pair], bool] = lambda pair: True
) -> dict[Pair, PairMatches]:
    """The matches of the pairs wanted that fit their two-view geometry, with their similarities."""
    found = {}
    with open_database(database) as db, features_h5.open_h5(matches) as file:
        names = {image.image_id: image.name for image in db.read_all_images()}
        for image0, image1, _ in verified_pairs(db):
            pair = names[image0], names[image1]
            if not wanted(pair):
                continue
            index = db.read_two_view_geometry(image0, image1).inlier_matches.astype(np.int64)
            all_matches = features_h5.matches_of(file, *pair)
            lowest = float(all_matches.scores.min()) if len(all_matches) else 0.0
            last = max(int(p[:, 0].max(initial=0)) for p in (index, all_matches.pairs.numpy()))
            scores = np.full(last + 1, lowest)  # guided matches are not among them
            scores[all_matches.pairs[:, 0]] = all_matches.scores
            found[pair] = PairMatches(pairs=index, scores=scores[index[:, 0]])
    return found


def verify_geometry(
    database: Path,
    pairs: Sequence[Pair],
    options: ReconstructionOptions,
    matches: Path,
    sources: Sources | None = None,
) -> None:
    """Estimate the two-view geometry of all pairs; those that have one are left alone.

    COLMAP's estimator takes a chunk's matches out of the database before it verifies them. What a
    kill has left missing is written again from `matches`.
    """
    with open_database(database) as db:
        images = db.read_all_images()
        ids = {image.name: image.image_id for image in images}
        counts = {name: db.num_keypoints_for_image(i) for name, i in ids.items()}
        cameras = {image.name: db.read_camera(image.camera_id) for image in images}
        _write_matches(db, pairs, ids, counts, matches)
        todo = [p for p in unique(pairs) if _is_unverified(db, ids, p)]
    sources = sources or Sources()
    with tqdm(total=len(todo), desc="verify", unit="pair", disable=not todo) as progress:
        for start in range(0, len(todo), VERIFY_CHUNK):
            chunk = todo[start : start + VERIFY_CHUNK]
            ours, colmaps = _by_estimator(chunk, cameras, options, sources)
            if ours:
                _verify_by_poselib(database, ours, options, sources, ids)
            if colmaps:
                hopeful = _without_hopeless(database, colmaps, cameras, options, ids)
                _verify_by_colmap(database, hopeful, cameras, options, sources)
            progress.update(len(chunk))


def _by_estimator(
    pairs: Sequence[Pair],
    cameras: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
    sources: Sources,
) -> tuple[list[Pair], list[Pair]]:
    """The pairs that PoseLib estimates, and those that COLMAP does.

    Of cells, most matches are wrong before refinement: COLMAP does not draw from those that agree.
    """
    if sources.reach and options.verification.estimator == "auto":
        return list(pairs), []
    ours = {p for p in pairs if by_poselib(options.verification, cameras[p[0]], cameras[p[1]])}
    return [p for p in pairs if p in ours], [p for p in pairs if p not in ours]


def _without_hopeless(
    database: Path,
    pairs: Sequence[Pair],
    cameras: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
    ids: Mapping[str, int],
) -> list[Pair]:
    """Pairs without those of one guessed camera whose matches are chance: they get no geometry.

    COLMAP looks for the focal length of the camera that two images share. Where there is nothing
    to find, that takes a hundred times as long as PoseLib's fundamental matrix.
    """
    if options.verification.estimator != "auto":
        return list(pairs)
    shared = [p for p in pairs if cameras[p[0]].camera_id == cameras[p[1]].camera_id]
    rule = replace(
        options.verification,
        min_num_inliers=0,
        max_log_false_alarms=HOPELESS,
        guided=replace(options.verification.guided, enabled=False),
    )
    given = rule, database, shared, Sources(), options.random_seed, options.num_threads
    found = [(p, g) for p, g in verify_pairs(*given) if g.config == Config.DEGENERATE]
    with open_database(database) as db:
        for (name0, name1), geometry in found:
            db.write_two_view_geometry(ids[name0], ids[name1], geometry)
    hopeless = {pair for pair, _ in found}
    return [pair for pair in pairs if pair not in hopeless]


def _verify_by_colmap(
    database: Path,
    pairs: Sequence[Pair],
    cameras: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
    sources: Sources,
) -> None:
    verification = options.verification
    if sources.is_chosen_from:
        width = max(enlargements(cameras, sources.resize_max).values())
        verification = verification.for_moved(width)
    spaced = [pair for pair in pairs if has_space(pair[0]) or has_space(pair[1])]
    _verify_one_by_one(database, spaced, cameras, verification, options.random_seed)
    pairs = [pair for pair in pairs if pair not in spaced]
    if not pairs:
        return
    listed = write_pairs(database.with_name(database.name + ".pairs.txt"), pairs)
    two_view = colmap_options(verification, options.random_seed)
    pycolmap.verify_matches(database, listed, two_view)
    listed.unlink(missing_ok=True)


def _verify_one_by_one(
    database: Path,
    pairs: Sequence[Pair],
    cameras: Mapping[str, pycolmap.Camera],
    options: VerificationOptions,
    seed: int,
) -> None:
    """Estimate as COLMAP does, for names that its lists of pairs cannot hold."""
    options = replace(options, estimator="colmap")
    with open_database(database) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for pair in pairs:
            id0, id1 = (ids[name] for name in pair)
            xy0, xy1 = (from_colmap(db.read_keypoints(i)[:, :2]) for i in (id0, id1))
            matches = db.read_matches(id0, id1)
            taken = cameras[pair[0]], cameras[pair[1]]
            geometry = verify_pair(xy0, xy1, matches, taken, options, seed)
            db.write_two_view_geometry(id0, id1, geometry)


def _verify_by_poselib(
    database: Path,
    pairs: Sequence[Pair],
    options: ReconstructionOptions,
    sources: Sources,
    ids: Mapping[str, int],
) -> None:
    found = list(
        verify_pairs(
            options.verification,
            database,
            pairs,
            sources,
            options.random_seed,
            options.num_threads,
        )
    )
    with open_database(database) as db:
        for (name0, name1), geometry in found:
            db.write_two_view_geometry(ids[name0], ids[name1], geometry)


def _is_unverified(database: pycolmap.Database, ids: Mapping[str, int], pair: Pair) -> bool:
    if pair[0] not in ids or pair[1] not in ids:
        return False
    image0, image1 = ids[pair[0]], ids[pair[1]]
    return database.exists_matches(image0, image1) and not database.exists_two_view_geometry(
        image0, image1
    )


def verified_links(database: Path) -> Links:
    """Numbers of verified matches by image and by image, of a database; pairs of none left out."""
    links: dict[str, dict[str, int]] = {}
    with open_database(database) as db:
        names = {i.image_id: i.name for i in db.read_all_images()}
        for image0, image1, count in verified_pairs(db):
            links.setdefault(names[image0], {})[names[image1]] = count
            links.setdefault(names[image1], {})[names[image0]] = count
    return links
