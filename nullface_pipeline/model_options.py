"""Options of the model that anonymizes photos: which one, where it runs, and its face models."""

from dataclasses import dataclass

from nullface_pipeline.photo_options import RUN, VERIFICATION, check_fields, option


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Arguments of `load_model_set`, and a second recognizer."""

    model: str = option("tiny", "tiny, sd15, sdxl, or a folder or Hub name of a Stable Diffusion model.", RUN)
    device: str | None = option(
        None, "cpu, cuda or mps; by default the fastest that is available.", RUN, changes_result=False
    )
    dtype: str | None = option(
        None,
        "Number format; by default what suits the device.",
        RUN,
        choices=("float32", "bfloat16", "float16"),
        changes_result=False,
    )
    detection_threshold: float = option(
        0.3, "Lowest detection score of a face. Lower finds more faces.", VERIFICATION, low=0.05, high=0.95
    )
    verifier: str | None = option(
        None, "Second recognizer that must not match: InsightFace pack or folder.", VERIFICATION
    )

    def __post_init__(self) -> None:
        check_fields(self)
