"""What runs a plan: the profiler, parts, workers, the wire between them, measurement. It decides nothing."""
