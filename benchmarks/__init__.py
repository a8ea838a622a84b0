"""cograd against hand-written loops: ratios of medians within one run."""
