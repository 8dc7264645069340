"""Numbers that add up."""

from __future__ import annotations

from uploadcore_client.progress import Meter


def test_what_breaks_off_counts_as_sent_twice() -> None:
    meter = Meter(100)
    meter.begins("u", 2, interrupted=set())
    meter.starts(1, 50, first_try=True)
    meter.moves(1, 30)
    assert meter.reading().done == 30

    meter.breaks_off(1)
    meter.starts(1, 50, first_try=False)
    meter.moves(1, 50)
    meter.stored(1, 50)

    reading = meter.reading()
    assert (reading.done, reading.sent, reading.resent, reading.parts_resent, reading.parts_done) == (50, 80, 30, 1, 1)


def test_what_an_earlier_process_was_sending_counts_whole() -> None:
    meter = Meter(100)
    meter.begins("u", 2, interrupted={2})
    meter.found(50)
    meter.starts(2, 50, first_try=True)
    meter.moves(2, 50)
    meter.stored(2, 50)

    reading = meter.reading()
    assert (reading.resumed, reading.sent, reading.resent, reading.parts_resent) == (50, 50, 50, 1)
    assert reading.done == reading.total == 100


def test_what_is_gone_is_not_done() -> None:
    meter = Meter(100)
    meter.begins("u", 2, interrupted=set())
    meter.found(50)
    meter.gone(50)

    assert (meter.reading().done, meter.reading().parts_done) == (0, 0)
