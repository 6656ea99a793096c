"""The verified database of a collection: its matches, of keypoints refined by their tracks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from d2_hloc.features.names import reach_of
from d2_hloc.files.colmap import ModelError, check_database, open_database
from d2_hloc.files.provenance import file_checksum
from d2_hloc.refinement.tracks import RefinedTracks, refine_tracks
from d2_hloc.sfm.database import build_database, verified_matches, verify_geometry
from d2_hloc.sfm.matched import Matched
from d2_hloc.sfm.moved_matches import RefinedKeypoints, keep_moved
from d2_hloc.sfm.verification import Sources


@dataclass(frozen=True, kw_only=True)
class VerifiedDatabase:
    """A COLMAP database with the two-view geometry of all pairs, and how much it holds.

    `refined` are its keypoints where they were refined; None where they are as extracted.
    """

    path: Path
    matches: int
    inlier_pairs: int
    inlier_matches: int
    refined: RefinedTracks | None = None

    @property
    def refined_keypoints(self) -> Path | None:
        """The file of its keypoints where they were refined."""
        return None if self.refined is None else self.refined.path


def prepare_database(matched: Matched) -> VerifiedDatabase:
    """Verify the matches, of refined keypoints where they are asked for.

    Tracks need verified matches, so refinement has a database of its own before.

    Raises:
        ModelError: if no pair is verified.
    """
    outputs, refined, sources = matched.outputs, None, Sources(features=matched.features.path)
    keypoints, matches = matched.features.path, matched.matches.path
    if matched.conf.refinement.enabled:
        reach = reach_of(matched.conf.extraction.feature)
        before = replace(sources, is_refined_later=True, reach=reach)
        raw = verified_database(matched, outputs.raw_database, keypoints, matches, before)
        sources, keypoints = replace(sources, first=raw), outputs.refined
        refined = matched.once(
            "refine", lambda: refine(matched, raw), lambda: RefinedTracks.read(keypoints)
        )
        if reach:
            matches = outputs.moved_matches
            window = matched.conf.refinement_rule.searched
            moved = RefinedKeypoints.read(keypoints, matched.features.path, window)
            given = matched.pairs, raw, matched.matches.path, moved, matches
            keep_moved(*given, refines_both=matched.queries.isdisjoint)
            sources = replace(sources, is_chosen_from=True)
    path = verified_database(matched, outputs.database, keypoints, matches, sources)
    database = counted(matched, path, refined)
    if not database.inlier_pairs:
        raise ModelError(
            f"{path}: none of its {len(matched.pairs)} pairs of images has matches that agree on "
            "how the cameras stand to each other; do they show the same place?"
        )
    return database


def counted(matched: Matched, path: Path, refined: RefinedTracks | None) -> VerifiedDatabase:
    """A database with its counts, which go into the record of the run."""
    with open_database(path) as db:
        database = VerifiedDatabase(
            path=path,
            matches=db.num_matches(),
            inlier_pairs=db.num_verified_image_pairs(),
            inlier_matches=db.num_inlier_matches(),
            refined=refined,
        )
    for name in ("matches", "inlier_pairs", "inlier_matches"):
        matched.record.counts[name] = getattr(database, name)
    if refined is not None:
        matched.record.counts["refined_keypoints"] = refined.outcomes
    return database


def verified_database(
    matched: Matched, path: Path, keypoints: Path, matches: Path, sources: Sources
) -> Path:
    """Make the database of these keypoints, with the two-view geometry of every pair."""
    matched.once(
        path.stem,
        lambda: build_database(
            path, matched.cameras, matched.pairs, keypoints, matches, matched.rigs
        ),
        lambda: check_database(path),
        *keypoints_identity(matched, keypoints),
    )
    with matched.record.timed("verify"):
        verify_geometry(path, matched.pairs, matched.conf.reconstruction, matches, sources)
    return path


def keypoints_identity(matched: Matched, keypoints: Path) -> list[tuple[int, int]]:
    """Checksum of keypoints that are not those of the features, which the fingerprint holds."""
    return [] if keypoints == matched.features.path else [file_checksum(keypoints)]


def refine(matched: Matched, database: Path) -> None:
    """Move keypoints by the tracks of a verified database, into a file of their own."""
    output = matched.outputs.refined
    output.unlink(missing_ok=True)  # of other matches
    found = verified_matches(database, matched.matches.path, matched.queries.isdisjoint)
    options = matched.conf.refinement_rule
    refine_tracks(options, matched.images, matched.features.path, found, output)
