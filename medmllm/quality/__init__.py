"""Tell what is implausible about a study; mend nothing.

    Volume, Note, Recording -> checks -> QualityFinding(code, where, value, bound) -> gate -> accept, warn or Refusal

`image` looks at geometry, values and coverage, `hounsfield` at what CT values must be, `air` at where a CT's air lies,
`slice_offsets` at slices that were rescaled otherwise than their neighbours, `note` at text, `duplicates` at notes that
are much alike, `audio` at sound; `gate` asks the policy what follows. Nothing here reads a file.
"""
