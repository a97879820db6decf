"""Settings of a CT beside a PET on the grid of `a_volume`, and of notes of few words."""

from medmllm.documents import Channel, ImageSettings, TextSettings

IMAGE = ImageSettings(
    spacing_mm=(2.0, 3.0, 4.0),
    size=(6, 5, 4),
    intensity="window",
    regrid="never",
    window=(-1000.0, 400.0),
    channels={"ct": Channel(modality="CT", required=True), "pet": Channel(modality="PT")},
)
TEXT = TextSettings(
    encoder="tiny",
    max_tokens=16,
    window=16,
    overlap=0,
    sections=("history",),
    required=False,
    tiny_vocabulary=60,
    local_files_only=True,
)


def reading(**channels: Channel) -> ImageSettings:
    return IMAGE.model_copy(update={"channels": channels})
