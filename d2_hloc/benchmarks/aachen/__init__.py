"""Aachen Day-Night's local reconstruction and localization of night queries."""
