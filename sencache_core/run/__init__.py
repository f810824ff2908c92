"""The step: who owns it, what it keeps, what it reports."""
