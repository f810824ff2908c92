"""Facts about models: families, fingerprints, the places where outputs are cached."""
