"""A ring of training records on the training device, fed while training runs."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, fields

import torch

from sam3lt_ray.demo.training.producers import ChunkExchange, take_chunk
from sam3lt_ray.demo.training.records import RECORD_LAYOUT, RecordArrays


@dataclass(frozen=True, slots=True)
class RecordTensors:
    """`records.RecordArrays` as tensors on a device; see there for the fields."""

    images: torch.Tensor
    coverage: torch.Tensor
    boxes_cxcywh: torch.Tensor
    classes: torch.Tensor

    def take(self, positions: torch.Tensor) -> RecordTensors:
        """The records at these positions (int64 [n])."""
        return RecordTensors(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})


class RecordRing:
    """The newest `capacity` records. A thread copies chunks to the device; the trainer never waits for one."""

    def __init__(self, exchange: ChunkExchange, capacity: int, device: torch.device) -> None:
        self._exchange = exchange
        self._device = device
        self._chunk_size = len(exchange.chunks[0].classes)
        self._capacity = capacity - capacity % self._chunk_size
        self._records = RecordTensors(
            **{
                name: torch.zeros((self._capacity, *shape), dtype=_torch_dtype(dtype), device=device)
                for name, (dtype, shape) in RECORD_LAYOUT.items()
            }
        )
        self._staged: queue.Queue[RecordTensors] = queue.Queue(maxsize=4)
        self._stop = threading.Event()
        self.device_lock = threading.Lock()  # held by whoever must have the device's driver to itself
        self.num_received = 0
        self._feeder = threading.Thread(target=self._feed, name="record-ring", daemon=True)
        self._feeder.start()

    @property
    def num_filled(self) -> int:
        """How many records there are to sample from."""
        return min(self.num_received, self._capacity)

    def refresh(self, wait_s: float = 0.0) -> None:
        """Takes in what has arrived; waits up to `wait_s` for the first chunk."""
        while True:
            try:
                staged = self._staged.get(timeout=wait_s) if wait_s else self._staged.get_nowait()
            except queue.Empty:
                return
            start = self.num_received % self._capacity
            for field in fields(staged):
                tensor = getattr(staged, field.name)
                getattr(self._records, field.name)[start : start + self._chunk_size] = tensor
                if tensor.is_cuda:  # made on the feeder's stream, which must not reuse its memory before it is read
                    tensor.record_stream(torch.cuda.current_stream())
            self.num_received += self._chunk_size
            wait_s = 0.0

    def sample(self, num_images: int, generator: torch.Generator) -> RecordTensors:
        """Draws records with replacement."""
        positions = torch.randint(self.num_filled, (num_images,), generator=generator, device=self._device)
        return self._records.take(positions)

    def close(self) -> None:
        """Ends the feeding thread; call before the producers end."""
        self._stop.set()
        self._feeder.join()

    def _feed(self) -> None:
        # Copies run on a stream of their own, from pinned memory, so that they overlap with training.
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if on_gpu else None
        pinned = RecordArrays(
            **{
                name: torch.zeros((self._chunk_size, *shape), dtype=_torch_dtype(dtype), pin_memory=on_gpu).numpy()
                for name, (dtype, shape) in RECORD_LAYOUT.items()
            }
        )
        while not self._stop.is_set():
            number = take_chunk(self._exchange, timeout_s=0.2)
            if number is None:
                continue
            pinned.copy_from(self._exchange.chunks[number])
            self._exchange.free.put(number)
            with self.device_lock, torch.cuda.stream(stream):
                staged = RecordTensors(
                    **{
                        name: torch.from_numpy(getattr(pinned, name)).to(self._device, non_blocking=True, copy=True)
                        for name in RECORD_LAYOUT
                    }
                )
                if stream is not None:
                    stream.synchronize()
            self._put_staged(staged)

    def _put_staged(self, staged: RecordTensors) -> None:
        while not self._stop.is_set():
            try:
                return self._staged.put(staged, timeout=0.2)
            except queue.Full:
                continue


def _torch_dtype(dtype: object) -> torch.dtype:
    return {"uint8": torch.uint8, "float32": torch.float32, "int64": torch.int64}[str(dtype.__name__)]  # type: ignore[attr-defined]
