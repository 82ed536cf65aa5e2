"""Feature files of the small network, made by workers or by this process, and their comparison."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bilinear_cli.cluster import extract
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.extraction.job import Job
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import Recipe
from support.feature_files import contents
from support.network import extract_photos
from support.photos import class_folders
from support.worker_network import SHA256, WorkerNetwork

POOLINGS = ("max", "bilinear", "bilinear:3", "compact:16", "maps")
RECIPE = Recipe(POOLINGS, "block5_conv3", 32, "squash", "float32", 3, SHA256)
MAX = replace(RECIPE, specs=("max",))  # fits nothing on a sample of the photos
ONE_BY_ONE = replace(MAX, batch_size=1)
# Options of the real network, with random weights
TINY = ["--weights", "random", "--image-size", "32", "--batch-size", "2", "--precision", "float32"]
TINY += ["--pooling", "max", "--pooling", "bilinear:4"]


@dataclass(frozen=True)
class OnWorkers:
    """Extraction on the workers of a scheduler, with the small network.

    Attributes:
        address: of the scheduler.
        output: the feature file, in a folder of its own.
        network: notes what the workers do.
    """

    address: str
    output: Path
    network: WorkerNetwork

    def extract_shards(
        self, photos: PhotoSet, recipe: Recipe, progress: Progress | None = None, **options: Any
    ) -> list[Path] | None:
        """Extract the shards; `options` are those of a `Job`."""
        job = Job(PhotoInput(photos, self.network), recipe, self.output, **options)
        return extract.extract_shards(job, self.address, progress)

    def extract(self, *arguments: Any, **options: Any) -> None:
        """Extract the shards and merge them."""
        extract.merge_shards(self.extract_shards(*arguments, **options) or [], self.output)


def photo_set(folder: Path, tits: int, wrens: int) -> PhotoSet:
    """Return a set of photos made on the spot."""
    return load_photo_set(str(class_folders(folder, {"tit": tits, "wren": wrens})))


def extract_locally(photos: PhotoSet, recipe: Recipe, output: Path, **options: Any) -> Path:
    """Extract in this process, and return the file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    extract_photos(photos, recipe, output, **options)
    return output


def assert_same(output: Path, expected: Path) -> None:
    """Compare a file, which is alone in its folder, with another one to the bit.

    Only the time and the command may differ.
    """
    one, other = (contents(path, without=("created", "command")) for path in (output, expected))
    assert one == other
    assert [path.name for path in output.parent.iterdir()] == [output.name]
