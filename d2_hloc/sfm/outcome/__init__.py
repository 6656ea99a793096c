"""Facts about a finished model: its counts, and the images that it does not show."""
