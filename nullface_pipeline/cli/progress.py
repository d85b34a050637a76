"""Progress bars of the commands."""

from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from nullface_pipeline.cli.console import console
from nullface_pipeline.protocols import NullFacePipeline


if TYPE_CHECKING:
    from nullface_pipeline.dataset import Shard, ShardOutcome
    from nullface_pipeline.photo_options import PhotoOptions


# Largest share of an unfinished photo or shard that the bar shows.
MAX_SHARE = 0.99

# Average number of angles tried per face for a random identity, of at most three.
MEAN_ANGLES = 2


class RateColumn(ProgressColumn):
    """Rate of a task in units per second, from its field `units` if it has one."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        count, seconds = task.fields.get("units", task.completed), task.elapsed
        return Text(f"{count / seconds:.1f} {self.unit}/s" if seconds and count else "")


def make_progress(*columns: str | ProgressColumn, rate: str, transient: bool = False) -> Progress:
    """Progress bar with further columns, the rate in a unit, and the remaining time."""
    rest = (BarColumn(), *columns, RateColumn(rate), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *rest, console=console, transient=transient)


class PhotoProgress:
    """Progress bar over photos, updated at every UNet evaluation.

    Args:
        pipe (`StableDiffusionNullFacePipeline`): its UNet gets a forward hook that counts samples.
        options (`PhotoOptions`): to estimate the evaluations per face before the first result.
        total (`int`): number of photos.
    """

    def __init__(self, pipe: NullFacePipeline, options: "PhotoOptions", total: int) -> None:
        self.bar = make_progress(
            "{task.fields[photos]}/{task.total:.0f} photos, {task.fields[faces]}", rate="evaluations"
        )
        self._task = self.bar.add_task("photos", total=total, photos=0, faces="faces: 0", units=0)
        self._evaluations_a_face = expected_evaluations(pipe, options)
        self._photos = self._faces_before = self._faces_done = self._faces = 0
        self._evaluations = self._evaluations_before = 0
        pipe.unet.register_forward_hook(self._count)

    def on_faces(self, done: int, total: int) -> None:
        """`PhotoOptions.on_progress` of each photo."""
        self._faces_done, self._faces = done, total
        self._show()

    def on_photo(self, faces: int) -> None:
        """Count a finished or refused photo."""
        self._photos += 1
        self._faces_before += faces
        if self._faces_before:
            self._evaluations_a_face = max(1.0, self._evaluations / self._faces_before)
        self._evaluations_before, self._faces_done, self._faces = self._evaluations, 0, 0
        self._show()

    def _count(self, module: Any, inputs: Any, output: Any) -> None:
        self._evaluations += output[0].shape[0]
        self._show()

    def _show(self) -> None:
        faces = f"faces: {self._faces_before}"
        if self._faces:
            faces = f"face {min(self._faces_done + 1, self._faces)} of {self._faces}"
        completed = self._photos + self._share()
        self.bar.update(self._task, completed=completed, photos=self._photos, faces=faces, units=self._evaluations)

    def _share(self) -> float:
        """Estimated share of the current photo that is done, from 0 to `MAX_SHARE`."""
        if not self._faces:
            return 0.0
        work = (self._evaluations - self._evaluations_before) / (self._faces * self._evaluations_a_face)
        return min(MAX_SHARE, max(work, self._faces_done / self._faces))


class ShardProgress:
    """Progress bar over the shards of a data set.

    Within a shard, it moves with the photos, whose number is estimated from the shards before.

    Args:
        shards (`list[Shard]`): all unfinished shards.
    """

    def __init__(self, shards: "list[Shard]") -> None:
        self.bar = make_progress(
            "{task.fields[shards]}/{task.total:.0f} shards, {task.fields[units]} photos", rate="photos"
        )
        self._task = self.bar.add_task("data set", total=len(shards), shards=0, units=0)
        self._photos_a_shard = len(shards[0].photos) if shards else 0
        self._shards = self._photos = self._photos_before = 0

    def on_photo(self) -> None:
        """Count a finished photo of the current shard."""
        self._photos += 1
        self._show()

    def on_shard(self, outcome: "ShardOutcome") -> None:
        """Count a finished shard."""
        self._shards += 1
        self._photos = self._photos_before = self._photos_before + outcome.photos
        self._photos_a_shard = self._photos_before // self._shards or self._photos_a_shard
        self._show()

    def _show(self) -> None:
        share = 0.0
        if self._photos_a_shard:
            share = min(MAX_SHARE, (self._photos - self._photos_before) / self._photos_a_shard)
        self.bar.update(self._task, completed=self._shards + share, shards=self._shards, units=self._photos)


def expected_evaluations(pipe: NullFacePipeline, options: "PhotoOptions") -> float:
    """Expected UNet evaluations per face at the first attempt.

    S to invert, or 1 with new noise, and 2 S - 1 per identity.
    """
    settings = options.settings(pipe.presets)
    steps = settings.get("num_inference_steps") or 100
    steps = settings.get("few_steps") or max(1, round(steps * (1.0 - settings["skip"])))
    if options.identity == "opposite":
        return 3 * steps - 1
    return 1 + (2 * steps - 1) * (MEAN_ANGLES if options.identity == "random" else 1)
