"""Out-of-fold predictions to estimates with intervals: discrimination, calibration, resampling, the cohort.

Arrays in, records out; no torch. Every measure is written once, for weighted studies: with weights of one it
is the estimate, with the counts of a bootstrap resample it is one draw.
"""
