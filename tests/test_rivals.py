"""The budget of the rivals: what the steps of imitation cost, without the play of the traces before them."""

import pytest

from mrrec_mini import rivals
from mrrec_mini.rivals import ImitationClock


def test_the_clock_counts_the_steps_of_imitation_and_nothing_before_them(monkeypatch):
    """Wrong versions: from the first note to the last (3 of 4 steps); with the play of the traces; with the drill."""
    times, heard = iter([100.0, 102.0, 104.0, 106.0]), []  # the traces were played until second 98
    monkeypatch.setattr(rivals.time, "process_time", lambda: next(times))
    clock = ImitationClock(lambda *note: heard.append(note))
    clock("copy drill", 1, 9, "")  # reads no time
    for step in (1, 2, 3, 4):
        clock("warm start", step, 4, "")
    assert clock.seconds == pytest.approx(8.0)
    assert heard == [("copy drill", 1, 9, ""), *(("warm start", step, 4, "") for step in (1, 2, 3, 4))]
