"""Reading a file from front to back in large blocks, the next one fetched while the current one is used."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

from sam3lt_ray.inputs.ranged_file import RangedFile

BLOCK_BYTES: Final = 8 * 2**20


class ForwardReader:
    """Bounded memory whatever the file size: at most two blocks, plus what a single read asks for.

    Skipping moves the position only: blocks that lie wholly inside a skipped stretch are never requested.

    Args:
        file: What to read.
        position: Byte to begin at; nothing before it is requested.
        block_bytes: Size of a request; None: ``BLOCK_BYTES``.
        prefetch: Fetch ahead in a thread; worthwhile where a request takes its time (S3).
    """

    def __init__(
        self, file: RangedFile, position: int = 0, *, block_bytes: int | None = None, prefetch: bool = False
    ) -> None:
        self.position = position
        self._file = file
        self._block_bytes = block_bytes or BLOCK_BYTES
        self._block = b""
        self._block_start = position
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if prefetch else None
        self._next_block: Future[bytes] | None = None
        self._next_start = -1

    def __enter__(self) -> ForwardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        """Size of the whole file."""
        return self._file.size_bytes

    def read(self, num_bytes: int) -> bytes:
        """The next ``num_bytes``; fewer only at the end of the file.

        Raises:
            StorageError: Storage keeps failing.
        """
        pieces = []
        missing = min(num_bytes, self.size_bytes - self.position)
        while missing > 0:
            self._load_block_at_position()
            start = self.position - self._block_start
            piece = self._block[start : start + missing]
            pieces.append(piece)
            self.position += len(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def peek(self, position: int, num_bytes: int) -> bytes:
        """Some bytes from further on, by a request of their own; the position stays.

        Raises:
            StorageError: Storage keeps failing.
        """
        start = position - self._block_start
        if start >= 0 and start + num_bytes <= len(self._block):
            return self._block[start : start + num_bytes]
        return self._file.read_at(position, num_bytes)

    def seek_forward(self, position: int) -> None:
        """Go on at ``position``, which may lie behind the end; going back is a mistake of the caller."""
        if position < self.position:
            raise ValueError(f"cannot go back from byte {self.position} to {position}")
        self.position = position

    def close(self) -> None:
        """Drop the blocks and end the thread."""
        self._block = b""
        self._next_block = None
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _load_block_at_position(self) -> None:
        block_end = self._block_start + len(self._block)
        if self._block_start <= self.position < block_end:
            return
        is_contiguous = bool(self._block) and self.position == block_end
        # Let go of the old block before the next one arrives.
        self._block = b""
        if self._next_block is not None and self._next_start == self.position:
            block = self._next_block.result()
        else:
            block = self._file.read_at(self.position, self._block_bytes)
        self._block, self._block_start = block, self.position
        self._next_block = None
        # The first block is not followed ahead: whoever reads one unit should not pay for the next.
        if self._executor is not None and is_contiguous:
            self._next_start = self._block_start + len(block)
            self._next_block = self._executor.submit(self._file.read_at, self._next_start, self._block_bytes)
