"""A driver whose Ray is gone says so and ends; one whose Ray was away for a moment, or was never seen, goes on."""

from __future__ import annotations

import socket
import threading
import time

from sam3lt_ray.pipeline.ray_watch import Endpoint, watching

OFTEN_S = 0.01
LONG_S = 60.0


class Ending:
    """What is done instead of ending the process."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.codes: list[int] = []
        self.ended = threading.Event()

    def give_up(self, lost: str) -> int:
        self.lost.append(lost)
        return 75

    def end_process(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


class Answers:
    """What an endpoint answers, one time after the other; then always the last."""

    def __init__(self, *answers: bool) -> None:
        self._answers = answers
        self._asked = 0
        self.given = threading.Event()

    def __call__(self, _: Endpoint) -> bool:
        self._asked += 1
        if self._asked > len(self._answers):
            self.given.set()
        return self._answers[min(self._asked, len(self._answers)) - 1]


def test_what_stops_listening_ends_the_process_with_the_code_that_was_asked_for() -> None:
    ending = Ending()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        endpoint = Endpoint("the gcs", "127.0.0.1", port, 0.0)
        with watching([endpoint], ending.give_up, ending.end_process, ask_every_s=OFTEN_S):
            listener.close()
            assert ending.ended.wait(LONG_S)
    assert ending.codes == [75]
    assert ending.lost == [f"the gcs at 127.0.0.1:{port} is gone"]


def test_silence_that_ends_in_time_is_forgiven_and_forgotten() -> None:
    ending, over = Ending(), threading.Event()
    patience_s = 0.05
    silences_s: list[float] = []

    def answers(_: Endpoint) -> bool:
        """Silent to one question, and to another one when the patience with the first would be over."""
        now_s = time.monotonic()
        if answers_given and (not silences_s or (len(silences_s) == 1 and now_s > silences_s[0] + 2 * patience_s)):
            silences_s.append(now_s)
            return False
        answers_given.append(now_s)
        if len(silences_s) == 2:
            over.set()
        return True

    answers_given: list[float] = []
    with watching([_gcs(patience_s)], ending.give_up, ending.end_process, answers, OFTEN_S):
        assert over.wait(LONG_S)
    assert ending.codes == []


def test_patience_ends() -> None:
    ending, answers = Ending(), Answers(True, True, False)
    with watching([_gcs(0.0)], ending.give_up, ending.end_process, answers, OFTEN_S):
        assert ending.ended.wait(LONG_S)
    assert ending.codes == [75]


def test_what_never_answered_is_not_missed() -> None:
    ending, living = Ending(), Answers(True, True, True)
    silent, alive = _gcs(0.0), Endpoint("the raylet", "127.0.0.1", 2, 0.0)

    def answers(endpoint: Endpoint) -> bool:
        return endpoint is not silent and living(endpoint)

    with watching([silent, alive], ending.give_up, ending.end_process, answers, OFTEN_S):
        assert living.given.wait(LONG_S)
    assert ending.codes == []


def _gcs(patience_s: float) -> Endpoint:
    return Endpoint("the gcs", "127.0.0.1", 1, patience_s)
