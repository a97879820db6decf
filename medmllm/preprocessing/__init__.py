"""From a study's volumes and note to what the model sees.

    Volume, Note -> contract checks -> MONAI transforms, word pieces -> Sample -> Batch

`contract` says which series may become which channel and how far a study may lie from the training
cohort; `image` puts volumes on the model's grid; `text` makes word pieces; `sample` brings both
together with presence masks. Nothing here reads a file.
"""
