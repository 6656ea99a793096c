"""The paper's network: trunk, detection, description, image pyramid, weights."""
