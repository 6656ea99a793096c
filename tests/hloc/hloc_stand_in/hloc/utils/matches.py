"""Matches of a pair, from a file in hloc's form."""

import h5py
import numpy as np


def get_matches(path, name0, name1):
    with h5py.File(path) as file:
        matches0 = file["/".join(n.replace("/", "-") for n in (name0, name1))]["matches0"][()]
    index = np.flatnonzero(matches0 != -1)
    return np.stack([index, matches0[index]], axis=1)
