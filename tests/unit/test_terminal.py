from __future__ import annotations

import io
import json

import pytest

from sam3lt_ray.progress import LogProgress
from sam3lt_ray.terminal import count_of, printable

ORDERS = "\x1b]0;owned\x07 \x9b31m \x08\r \x7f \u202egnp.exe \u2066 \ud800"


def test_one_thing_has_no_plural() -> None:
    assert [count_of(number, "shard") for number in (0, 1, 1234)] == ["0 shards", "1 shard", "1,234 shards"]
    assert count_of(2, "box", "es") == "2 boxes"


def test_orders_are_written_out_and_text_is_not() -> None:
    assert printable("plain, é, 照片 😀\n\ttwo lines") == "plain, é, 照片 😀\n\ttwo lines"
    assert printable("\x1b[31mred") == "\\u001b[31mred"
    assert printable(ORDERS).encode("ascii").isascii()


def test_json_keeps_its_content() -> None:
    text = json.dumps({"key": ORDERS}, ensure_ascii=False, indent=2)
    assert json.loads(printable(text)) == {"key": ORDERS}


def test_progress_obeys_nobody(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    LogProgress(stream).message(f"shard {ORDERS} is gone")
    assert not {"\x1b", "\x9b", "\r"} & set(stream.getvalue())


def test_the_live_line_obeys_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    from sam3lt_ray.progress import TerminalProgress

    progress = TerminalProgress()
    progress.message("shard \x1b]0;owned\x07 is gone")
    progress.finish()
    assert "\x1b]0;owned" not in capsys.readouterr().err
