"""Facts about samplers: noise levels, expected evaluations, what a step does."""
