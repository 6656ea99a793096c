"""Sub-pixel places of keypoints, searched for in the network's shallow maps."""
