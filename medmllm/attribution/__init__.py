"""Why the model said so: attribution over voxels and words, with its completeness error stated.

fold models, Sample -> Integrated Gradients -> Explanation on the study's own grid and words
"""
