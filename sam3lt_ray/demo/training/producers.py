"""Processes that render training records for as long as training runs."""

from __future__ import annotations

import itertools
import os
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.queues import Queue

from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.demo.training.records import RecordArrays

_CHUNKS_PER_WORKER = 3


@dataclass(frozen=True, slots=True)
class ChunkExchange:
    """Where producers hand over chunks of records.

    Attributes:
        chunks: Shared memory, one set of arrays per chunk.
        free: Numbers of chunks that a producer may fill.
        full: Numbers of chunks that wait to be taken.
    """

    chunks: list[RecordArrays]
    free: Queue[int]
    full: Queue[int]


@contextmanager
def producing(seed: int, first_index: int, num_workers: int, chunk_size: int) -> Iterator[ChunkExchange]:
    """Starts `num_workers` rendering processes, and ends them on leaving.

    Worker w renders the scenes first_index + w, first_index + w + num_workers, ... of the series `seed`. The processes
    are forked, so this must be entered before the GPU is touched.
    """
    context = ForkContext()
    chunks = [RecordArrays.shared(chunk_size) for _ in range(num_workers * _CHUNKS_PER_WORKER)]
    exchange = ChunkExchange(chunks, context.Queue(), context.Queue())
    for number in range(len(chunks)):
        exchange.free.put(number)
    workers: list[ForkProcess] = []
    for offset in range(num_workers):
        arguments = (exchange, seed, first_index + offset, num_workers, chunk_size)
        workers.append(context.Process(target=_produce, args=arguments, daemon=True))
        workers[-1].start()
    try:
        yield exchange
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def take_chunk(exchange: ChunkExchange, timeout_s: float) -> int | None:
    """The number of a filled chunk, or None where none was filled in time. Give it back through `exchange.free`."""
    try:
        return exchange.full.get(timeout=timeout_s)
    except queue.Empty:
        return None


def _produce(exchange: ChunkExchange, seed: int, first_index: int, stride: int, chunk_size: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends its producers itself, by SIGTERM,
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # for which it may have a handler that a fork inherits
    os.nice(10)  # compiling and launching the training step come first
    indices = itertools.count(first_index, stride)
    while True:
        number = exchange.free.get()
        for position in range(chunk_size):
            exchange.chunks[number].put(position, render_scene(seed, next(indices)))
        exchange.full.put(number)
