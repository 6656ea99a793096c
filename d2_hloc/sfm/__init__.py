"""Structure from motion: COLMAP databases, models, camera poses."""
