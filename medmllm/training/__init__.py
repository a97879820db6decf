"""Samples and targets to trained fold models: patient-grouped splits, the loop, cross-validation, tracking."""
