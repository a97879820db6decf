"""From a study's volumes and note to what the model sees.

    series -> channels; Volume, Note -> contract checks -> MONAI transforms, word pieces -> Sample -> Batch

`channel_rules` and `selection` say which series becomes which channel, `contract` how far a study may lie from the
training cohort; `image` puts volumes on the model's grid; `text` makes word pieces; `sample` brings both together with
presence masks. Nothing here reads a file.
"""
