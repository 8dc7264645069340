"""What `make soak` measures at full scale, small: real processes, real kills."""

import pytest

from tests.soak import big_file, kills, races

MIB = 1024 * 1024


@pytest.mark.timeout(300)
def test_whatever_is_killed_every_upload_completes_and_only_what_was_in_flight_is_sent_twice() -> None:
    clients, servers = kills.run(seed=1, kills=2, size=96 * MIB, part_size=2 * MIB)

    assert "all completed, bytes equal" in clients
    assert "all completed, bytes equal" in servers


@pytest.mark.timeout(300)
def test_memory_stays_flat_however_large_the_file() -> None:
    figures = big_file.measured(size=768 * MIB)

    assert figures.client_peak < (64 + 4) * MIB + figures.client_idle
    assert figures.server_peak - figures.server_idle < 64 * MIB


def test_many_completions_of_one_upload_get_one_answer_and_a_race_with_abort_has_one_winner() -> None:
    together, against = races.run(callers=20, races=20)

    assert "20 equal answers of status 200" in together
    assert "one winner each" in against
