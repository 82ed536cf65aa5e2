"""What every worker must have and see to make shards of a feature file."""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bilinear_cli.cluster.worker_check import differing
from bilinear_cli.errors import BilinearError, InUseError
from bilinear_cli.extraction.from_photos import MapNetwork
from bilinear_cli.extraction.versions import installed_versions
from bilinear_cli.networks.load import import_tensorflow
from bilinear_cli.store import locked


@dataclass(frozen=True)
class ExtractRequirements:
    """What must be the same on every worker as on the client.

    Attributes:
        token_file: a file in the shared folder, which the client has locked.
        token: what is in it.
        root: the folder of the photos.
        photo: one of them, and its size in bytes; None if the client could read none.
        versions: see `versions.py`.
        network: where it comes from.
        weights_sha256: of its weights.
        precision: of the rows; it decides whose versions count.
    """

    token_file: Path
    token: str
    root: Path
    photo: tuple[Path, int] | None
    versions: str
    network: MapNetwork
    weights_sha256: str
    precision: str = "float32"

    def fault(self) -> str | None:
        """Return what this process lacks, or None; see `check.Requirements`."""
        folder = self.token_file.parent
        try:
            token = self.token_file.read_text()
        except OSError:
            token = ""
        if token != self.token:
            return f"does not see {folder}: give an --output in a folder that all workers share"
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            return f"cannot write to {folder}: {error.strerror}"
        with contextlib.suppress(InUseError), locked(folder):
            return (
                f"does not see that {folder} is locked: it needs a file system whose locks (flock) "
                "hold on all machines"
            )
        if not self.root.is_dir():
            return f"does not see the photos in {self.root}: put them where all workers see them"
        if self.photo:
            path, size = self.photo
            if not path.is_file() or path.stat().st_size != size:
                return f"does not see the photo {path} as it is here: put it where all see it"
        if fault := differing(installed_versions(self.precision), self.versions):
            return fault
        try:
            sha256 = self.network.sha256()
        except BilinearError as error:
            return f"has no weights: {error}"
        if sha256 != self.weights_sha256:
            return f"has weights {sha256}, and here they are {self.weights_sha256}: give --weights"
        return None


async def resolve_on_worker(precision: str, size: int) -> tuple[str, int]:
    """Return the precision and the batch size that suit the worker, see `backbone.py`."""
    return await asyncio.to_thread(_resolve, precision, size)


def _resolve(precision: str, size: int) -> tuple[str, int]:
    import_tensorflow()
    from bilinear_cli.networks.backbone import resolve_batch_size, resolve_precision

    return resolve_precision(precision), resolve_batch_size(size)
