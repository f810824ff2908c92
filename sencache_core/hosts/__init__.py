"""Where the core meets samplers. Each module imports its own host library and no other host."""
