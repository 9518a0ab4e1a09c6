"""The octree model: token levels, the network over them, and the discrete process."""
