"""What is known of a model and how it is measured: profiles, priors, calibration runs."""
