"""An ONNX network in a file or in a folder of Hugging Face's layout: find it, and read it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.files import file_sha256
from bilinear_cli.messages import abbreviate, one_line
from bilinear_cli.networks.onnx_graph import check_graph, load_graph, quantizes_dynamically

if TYPE_CHECKING:  # the command line names networks without NumPy
    from bilinear_cli.networks.preprocessing import Preprocessing

SUFFIX = ".onnx"
# Where a folder of Hugging Face's layout has its graph
GRAPHS = ("onnx/vision_model.onnx", "onnx/model.onnx", "vision_model.onnx", "model.onnx")
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX network and what its publisher says of it.

    Attributes:
        path: of the graph.
        config: of `config.json`; empty if there is none.
        preprocessing: of `preprocessor_config.json`.
        files: all files that decide the maps.
        quantizes_dynamically: the graph computes the scales of its 8-bit numbers while it runs.
    """

    path: Path
    config: Mapping[str, Any]
    preprocessing: "Preprocessing"
    files: tuple[Path, ...]
    quantizes_dynamically: bool

    @property
    def patch_size(self) -> int | None:
        """Width and height of the patches of a transformer in pixels, by the configuration."""
        return positive_int(vision_config(self.config).get("patch_size"))

    def sha256(self) -> str:
        """Return what identifies the network: the SHA-256 of the SHA-256 of its files."""
        digests = hashlib.sha256()
        for path in self.files:
            digests.update(bytes.fromhex(file_sha256(path)))
        return digests.hexdigest()


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a `config.json` that is about images."""
    nested = config.get("vision_config")
    return nested if isinstance(nested, dict) else config


def positive_int(value: Any) -> int | None:
    """Return a value of a `config.json` if it is a positive integer."""
    return value if isinstance(value, int) and value > 0 else None


def is_onnx(backbone: str) -> bool:
    """Return whether a backbone's name is that of an ONNX network."""
    return backbone.endswith(SUFFIX)


def is_onnx_path(backbone: str) -> bool:
    """Return whether a backbone is a path of an ONNX network, and not the name of a network.

    A folder in the working folder does not hide a network of the same name: `./vgg16` names it.
    """
    if backbone.endswith(SUFFIX) or "/" in backbone or os.sep in backbone:
        return True
    if backbone.lower() == "vgg16" or not Path(backbone).is_dir():
        return False
    from bilinear_cli.networks.applications import NETWORKS

    return backbone.lower() not in NETWORKS


def has_graph(path: Path) -> bool:
    """Return whether a path is that of a graph, or of a folder with graphs and no feature file."""
    if path.suffix == SUFFIX:
        return True
    graphs = [*path.glob(f"*{SUFFIX}"), *path.glob(f"onnx/*{SUFFIX}")]
    return bool(graphs) and not any(path.glob("*.h5"))


def onnx_name(path: Path) -> str:
    """Return the name of an ONNX network in a recipe: that of its folder, or of a single file."""
    graph = Path(os.path.normpath(find_graph(path).absolute()))
    folder = graph.parent.parent if graph.parent.name == "onnx" else graph.parent
    if graph not in [folder / name for name in GRAPHS]:
        return graph.name
    if folder.parent.name == "snapshots":  # of Hugging Face's cache, models--owner--name/snapshots
        return folder.parents[1].name.rpartition("--")[2] + SUFFIX
    return folder.name + SUFFIX


def find_graph(path: Path) -> Path:
    """Return the file of the graph.

    Raises:
        UsageError: the folder has no graph, or several.
    """
    if not path.is_dir():
        if path.suffix != SUFFIX:
            raise UsageError(f"{path} is neither a file {SUFFIX} nor a folder. Check --backbone.")
        return path
    graphs = [path / name for name in GRAPHS if (path / name).is_file()]
    graphs = graphs[:1] or sorted([*path.glob(f"*{SUFFIX}"), *path.glob(f"onnx/*{SUFFIX}")])
    if len(graphs) == 1:
        return graphs[0]
    fault = f"has several graphs, {abbreviate(map(str, graphs))}" if graphs else "has no graph"
    advice = f"Give the path of a file {SUFFIX}, or a folder with {GRAPHS[1]}."
    raise UsageError(f"the folder {path} {fault}. {advice}")


def read_model(path: Path) -> OnnxModel:
    """Read what belongs to an ONNX network, and check it; the graph's weights are not loaded.

    Raises:
        BilinearError: a file is missing, damaged, or not safe; or a library is not installed.
        UsageError: the network does not take photos alone.
    """
    from bilinear_cli.networks.preprocessing import EXAMPLE, Preprocessing

    graph = find_graph(path)
    model = load_graph(graph)
    external = check_graph(graph, model)
    folders = [graph.parent, graph.parent.parent] if graph.parent.name == "onnx" else [graph.parent]
    configs = {name: _find(name, folders) for name in ("config.json", PREPROCESSOR)}
    preprocessor = configs[PREPROCESSOR]
    if not preprocessor:
        raise BilinearError(
            f"{graph} has no {PREPROCESSOR} beside it, which says how photos are prepared. Write "
            f"this file with the values of the network's publisher, for example: {EXAMPLE}"
        )
    try:
        preprocessing = Preprocessing.from_config(_read_json(preprocessor))
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise BilinearError(f"{preprocessor} cannot be used: {what}. Example: {EXAMPLE}") from error
    config = configs["config.json"]
    files = (graph, *external, *filter(None, configs.values()))
    values = _read_json(config) if config else {}
    return OnnxModel(graph, values, preprocessing, files, quantizes_dynamically(model))


def _find(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BilinearError(f"cannot read {path}: {one_line(error)[:200]}") from error
    if not isinstance(content, dict):
        raise BilinearError(f"cannot read {path}: it is no JSON object")
    return content
