"""The fused step, in memory of its own: workspace, updates, blocks, stages, and the step made of them."""
