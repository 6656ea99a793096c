"""Bundle adjustment in which every observation counts by how certain its place is.

COLMAP's adjuster takes all for as certain. So it makes the problem, with all that stays constant,
and pyceres puts residuals in their place that are divided by their deviations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.rigs import has_rigs

Units = Mapping[int, Float[np.ndarray, " N"]]  # pixels, by image id and keypoint

ITERATIONS = 100
PINHOLE = pycolmap.CameraModelId.PINHOLE


def can_weight(model: pycolmap.Reconstruction) -> bool:
    """True if observations of the model can be weighted: no rigs, and both have the same Ceres.

    pyceres is given pycolmap's problems and costs, so that each has to know the other's classes.
    """
    try:
        import pyceres

        cost = pycolmap._core.cost_functions.ReprojErrorCost
        known = isinstance(cost(PINHOLE, np.eye(2), np.zeros(2)), pyceres.CostFunction)
    except (ImportError, AttributeError, TypeError):
        return False
    is_same = pyceres.__ceres_version__ == pycolmap.__ceres_version__
    return known and is_same and not has_rigs(model)


def solve_weighted(
    model: pycolmap.Reconstruction,
    config: pycolmap.BundleAdjustmentConfig,
    options: pycolmap.BundleAdjustmentOptions,
    units: Units,
    loss_scale: float | None,
) -> None:
    """Adjust a model in place; its errors are divided by `units`, and so is the loss's scale."""
    import pyceres

    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
    problem = adjuster.problem
    points = dict(model.points3D.items())
    for point in points.values():
        if problem.has_parameter_block(point.xyz):
            problem.remove_parameter_block(point.xyz)  # and with it its residuals
    loss = pyceres.TrivialLoss() if loss_scale is None else pyceres.CauchyLoss(loss_scale)
    cost = pycolmap._core.cost_functions.ReprojErrorCost
    for image_id in config.images:
        image = model.images[image_id]
        pose, camera = model.frames[image.frame_id].rig_from_world, model.cameras[image.camera_id]
        for point2D, unit in zip(image.points2D, units[image_id].tolist(), strict=True):
            if point2D.has_point3D() and pose is not None:
                residual = cost(camera.model, unit**2 * np.eye(2), point2D.xy)
                blocks = [points[point2D.point3D_id].xyz, pose.params, camera.params]
                problem.add_residual_block(residual, loss, blocks)
    solver = options.ceres.create_solver_options(config, problem)
    solver.max_num_iterations = ITERATIONS
    pyceres.solve(solver, problem, pyceres.SolverSummary())
