"""The step: what is known of a run, who owns it, what it keeps and reports."""
