"""What a gateway refuses by itself, in virtual time."""

from __future__ import annotations

import pytest

from gateway.room import Room
from shared.broker.admission import Answer, Capacity, Request, Verdict
from shared.errors import QueueFull, TooLate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(clock: Clock) -> Room:
    return Room(100, lambda: Capacity(rows_per_s=50, batch_s=0.2), clock)


def request(timeout_ms: int = 5000) -> Request:
    return Request("r", timeout_ms, 1, "raw", b"x")


def full(room: Room) -> None:
    room.learned(Answer(100, 120, [Verdict.FULL]), [(request(), Verdict.FULL)])


def refused(room: Room, timeout_ms: int = 5000) -> bool:
    try:
        room.check(timeout_ms)
    except (QueueFull, TooLate):
        return True
    return False


def test_there_is_room_until_redis_says_otherwise(room: Room) -> None:
    assert not refused(room)
    full(room)
    assert refused(room)


def test_as_many_are_let_through_as_places_become_free(room: Room, clock: Clock) -> None:
    full(room)
    clock.now += 0.125  # six rows at 50 a second, and a quarter
    assert [refused(room) for _ in range(8)] == [False] * 6 + [True] * 2


def test_it_opens_once_redis_shows_room_and_not_at_every_free_place(room: Room) -> None:
    full(room)
    room.learned(Answer(96, 120, [Verdict.ADMITTED]), [])
    assert refused(room)
    room.learned(Answer(94, 120, [Verdict.ADMITTED]), [])
    assert not refused(room)


def test_what_was_learned_long_ago_counts_no_more(room: Room, clock: Clock) -> None:
    full(room)
    clock.now += 0.3
    assert [refused(room) for _ in range(100)] == [False] * 100


def test_a_request_refused_for_its_bytes_closes_nothing_for_others(room: Room) -> None:
    room.learned(Answer(3, 3, [Verdict.FULL]), [(request(), Verdict.FULL)])
    assert not refused(room)


def test_only_timeouts_as_short_as_the_late_one_are_refused(room: Room) -> None:
    room.learned(Answer(90, 100, [Verdict.TOO_LATE]), [(request(2000), Verdict.TOO_LATE)])
    assert [refused(room, timeout_ms) for timeout_ms in (1000, 2000, 2001, 30000)] == [True, True, False, False]


def test_late_ones_are_let_in_again_when_the_wait_is_well_below_their_timeout(room: Room) -> None:
    room.learned(Answer(90, 100, [Verdict.TOO_LATE]), [(request(2000), Verdict.TOO_LATE)])
    room.learned(Answer(80, 85, [Verdict.ADMITTED]), [])  # (85 + 1) / 50 + 0.2 = 1.92 s
    assert refused(room, 2000)
    room.learned(Answer(80, 83, [Verdict.ADMITTED]), [])  # with its own row 1.88 s
    assert not refused(room, 2000)


def test_a_wide_request_that_was_late_closes_nothing_for_narrow_ones(room: Room) -> None:
    wide = Request("r", 2000, 60, "raw", b"x")
    room.learned(Answer(40, 50, [Verdict.TOO_LATE]), [(wide, Verdict.TOO_LATE)])  # 60 more rows are; one more isn't
    assert not refused(room, 2000)
    text = str(room.refusal(Verdict.TOO_LATE, 2000, rows=60))
    assert text == "50 rows are ahead, which take with its own 60 about 2.4 s; the timeout is 2 s"


def test_nothing_is_refused_by_guess_while_no_worker_has_told_its_rate(clock: Clock) -> None:
    room = Room(100, Capacity, clock)
    full(room)
    assert not refused(room)


def test_retry_after_is_the_time_to_work_off_what_is_open_and_jittered(room: Room) -> None:
    room.learned(Answer(100, 1000, [Verdict.FULL]), [(request(), Verdict.FULL)])  # 1000 rows at 50 a second
    times = [room.retry_after_s() for _ in range(200)]
    assert 20 <= min(times) < 20.5
    assert 24.5 < max(times) <= 25


def test_short_times_to_come_back_are_spread_over_a_second(room: Room) -> None:
    times = [room.retry_after_s() for _ in range(200)]
    assert 0.5 <= min(times) < 0.6
    assert 1.4 < max(times) <= 1.5


def test_a_late_one_is_told_when_its_timeout_would_do(room: Room) -> None:
    room.learned(Answer(500, 1000, [Verdict.TOO_LATE]), [(request(2000), Verdict.TOO_LATE)])
    with pytest.raises(TooLate, match=r"1000 rows are ahead, which take about 20.2 s; the timeout is 2 s") as caught:
        room.check(2000)
    assert 18.2 <= caught.value.retry_after_s <= 18.2 * 1.25


def test_those_refused_together_come_back_one_after_the_other(room: Room, clock: Clock) -> None:
    full(room)  # 120 rows at 50 a second
    times = sorted(room.refusal(Verdict.FULL, 5000).retry_after_s or 0.0 for _ in range(300))
    assert times[0] >= 2.4
    assert 3.0 <= times[150] <= 4.5  # most have to wait until those before them have had their places: at most 6 s
    assert 5.5 <= times[-1] <= 7.5
    clock.now += 6.0
    assert (room.refusal(Verdict.FULL, 5000).retry_after_s or 0.0) <= 2.4 * 1.42  # they have come, or never will


def test_a_flood_is_spread_over_seconds_not_minutes(room: Room) -> None:
    full(room)
    times = [room.refusal(Verdict.FULL, 5000).retry_after_s or 0.0 for _ in range(50_000)]
    assert max(times) <= 12.5
