"""Images -> features.h5: every feature by its name, extraction, compression."""
