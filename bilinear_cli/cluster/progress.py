"""The shards as tasks: submitted, and followed until all are done."""

import logging
from collections.abc import Iterator
from queue import SimpleQueue

from distributed import Client, Future

from bilinear_cli.cluster.worker import ShardedJob, make_shard, same
from bilinear_cli.extraction.job import Progress
from bilinear_cli.recipe import shard_slice

log = logging.getLogger(__name__)


def run(
    client: Client, sharded: ShardedJob, begun: dict[int, int | None], progress: Progress | None
) -> None:
    """Let the workers make all shards; tell how far they are."""
    n_photos, of = len(sharded.job.origin.photo_set), sharded.n_shards
    cuts = [
        shard_slice(f"{i}/{of}", n_photos, sharded.job.recipe.batch_size) for i in range(1, of + 1)
    ]
    sizes = [cut.stop - cut.start for cut in cuts]
    done = {i: sizes[i - 1] if n is None else n for i, n in begun.items()}
    events: SimpleQueue = SimpleQueue()
    client.subscribe_topic(sharded.topic, events.put)
    futures = _submit(client, sharded)
    for future in futures:
        future.add_done_callback(events.put)
    told = -1
    try:
        for number, n_done in _follow(events, futures):
            done[number] = sizes[number - 1] if n_done is None else n_done
            if progress and sum(done.values()) != told:
                told = sum(done.values())
                progress(told, n_photos)
    finally:
        client.unsubscribe_topic(sharded.topic)
        client.cancel([*futures])


def _submit(client: Client, sharded: ShardedJob) -> dict[Future, int]:
    """Submit all shards; return the number of each."""
    log.info(
        "shards: %d, workers: %d, %s, photos a batch: %d",
        sharded.n_shards,
        len(client.nthreads()),
        sharded.job.recipe.precision,
        sharded.job.recipe.batch_size,
    )
    shared = client.submit(same, sharded, key=sharded.key("job"))
    return {
        client.submit(
            make_shard, shared, number, key=sharded.key("shard", number), priority=-number
        ): number
        for number in range(1, sharded.n_shards + 1)
    }


def _follow(events: SimpleQueue, futures: dict[Future, int]) -> Iterator[tuple[int, int | None]]:
    """Yield the number of a shard and how many photos of it are done, or None for all."""
    waiting = set(futures)
    while waiting:
        event = events.get()
        if isinstance(event, Future):
            waiting.discard(event)
            event.result()
            yield futures[event], None
            continue
        _, message = event
        if "warning" in message:
            log.warning("%s", message["warning"])
        else:
            yield message["shard"], message["done"]
