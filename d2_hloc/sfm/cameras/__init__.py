"""Cameras of images: known from files, guessed from EXIF, and shared between images."""
