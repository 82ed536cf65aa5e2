"""How long `extract` will take here, and how large its file will be, by a trial on two photos."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from bilinear_cli.extraction.existing import resolve_locally
from bilinear_cli.extraction.make_job import make_network, make_recipe
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.machine import n_cpus
from bilinear_cli.networks.onnx_model import is_onnx
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.photos.pixels.batches import read_batches, stack_batch
from bilinear_cli.photos.pixels.images import read_any
from bilinear_cli.poolings.parameters import fits

N_PHOTOS = 2


def forecast_extraction(photo_set: PhotoSet, options: ExtractOptions) -> dict[str, Any]:
    """Compute the features of the first and the last photo, and time it.

    A network by name has random weights, which take the same time as others and need no download.

    Returns:
        `poolings`, `backbone`, `image_size`, `precision`, `engine`, `ms_a_photo` and `seconds`, of
        the whole set; and `bytes_a_photo` and `bytes`, which are exact.
    """
    options = replace(options, batch_size=N_PHOTOS)
    network = make_network(options)
    if not is_onnx(network.backbone):
        network = replace(network, source="random")
    recipe = resolve_locally(make_recipe(options, network))
    forward = network.load(recipe)  # which imports TensorFlow quietly
    from bilinear_cli.extraction.graph import compile_pooling, count_channels

    channels = count_channels(forward, recipe.image_size)
    recipe = replace(recipe, specs=tuple(x for x in recipe.specs if fits(x, channels)))
    compute, _ = compile_pooling(forward, recipe.specs, N_PHOTOS, recipe.parsed_views)
    sizes = [recipe.image_size]
    read = partial(read_any, sizes=sizes, resize=recipe.resize, colours=recipe.colours)
    paths = [photo_set.root / path for path in photo_set.paths[[0, -1]]]
    start = time.process_time()
    (photos,) = read_batches(paths, N_PHOTOS, read)
    reading = (time.process_time() - start) / n_cpus()  # extraction reads on all processors
    pixels = stack_batch(photos, sizes, N_PHOTOS)
    compute(pixels)  # the first call takes longer
    start = time.perf_counter()
    rows = compute(pixels)
    seconds = (reading + time.perf_counter() - start) / N_PHOTOS
    bytes_per_photo = sum(x[0].nbytes for x in rows.values())
    return {
        "poolings": [*recipe.specs],
        "backbone": recipe.backbone,
        "image_size": recipe.image_size,
        "precision": recipe.precision,
        "engine": recipe.engine,
        "bytes_a_photo": bytes_per_photo,
        "bytes": bytes_per_photo * len(photo_set),
        "ms_a_photo": round(1000 * seconds, 1),
        "seconds": round(seconds * len(photo_set), 1),
    }
