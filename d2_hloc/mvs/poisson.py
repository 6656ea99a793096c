"""Poisson reconstruction of a cloud, as a program: on some clouds COLMAP crashes the process."""

from __future__ import annotations

import sys

from d2_hloc.files.colmap import pycolmap


def mesh_cloud(cloud: str, mesh: str, depth: str, trim: str, num_threads: str) -> None:
    """Write the mesh of a PLY file of points with normals."""
    options = pycolmap.PoissonMeshingOptions(
        depth=int(depth), trim=float(trim), num_threads=int(num_threads)
    )
    pycolmap.poisson_meshing(cloud, mesh, options)


if __name__ == "__main__":
    mesh_cloud(*sys.argv[1:])
