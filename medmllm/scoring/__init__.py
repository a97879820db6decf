"""Score a whole folder with the model loaded once; a bad study costs itself alone.

folder, model package -> predictions, refusals, explanations, one folder per study
"""
