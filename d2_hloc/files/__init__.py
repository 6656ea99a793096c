"""Files on disk: features.h5 and the like, whole and with their provenance; COLMAP; Ray."""
