"""HPatches' full sequences: matching accuracy under homographies."""
