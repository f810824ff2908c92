"""What a person runs: the command line, the demo, figures and their metrics."""
