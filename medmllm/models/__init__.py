"""The network: an image encoder, a text encoder, their fusion, one classifier, and its package on disk.

Batch -> features per modality (learned tokens for missing ones) -> fusion -> logits
"""
