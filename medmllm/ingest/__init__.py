"""What lies in a folder, turned into studies known by pseudonymous keys.

    folder -> walk -> recognise each file -> group into studies -> join the label table -> StudyIndex
    StudyIndex -> read_volume -> Volume        read_study_note -> Note        read_recording -> Recording

`study_folder` is the way in. `walk` and `recognise` look at files (through `opening`), `grouping` and `joining` put
studies together (as `draft`), `keys` makes the pseudonyms. `dicom_header`, `dicom_stack`, `dicom_pixels`, `dicom` read
one DICOM series; `nifti`, `notes`, `audio` and `tables` one file each. `judged` lets outside judges try the readers.
`synthetic_*` write made-up studies.
Original identifiers (patient numbers, UIDs, file names) stay in this room: what leaves it holds keys.
"""
