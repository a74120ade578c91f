"""The bucket, and the arithmetic the limits' page states."""

from extauthz.transport.h2.limits import KIB, MIB, Bucket, Limits


def test_a_bucket_gives_its_capacity_at_once_and_then_its_rate() -> None:
    bucket = Bucket(1_000, 33.0, 0.0)
    assert sum(bucket.take(0.0) for _ in range(2_000)) == 1_000
    assert sum(bucket.take(1.0) for _ in range(2_000)) == 33
    assert sum(bucket.take(1_000.0) for _ in range(2_000)) == 1_000


def test_a_bucket_whose_clock_stands_still_gives_nothing_more() -> None:
    bucket = Bucket(1, 10.0, 5.0)
    assert [bucket.take(5.0), bucket.take(5.0), bucket.take(5.05), bucket.take(5.2)] == [True, False, False, True]


def test_the_limits_are_those_that_were_promised() -> None:
    limits = Limits()
    assert (limits.streams_max, limits.resets_max, limits.resets_per_s) == (1_024, 1_000, 33.0)
    assert (limits.block_bytes_max, limits.continuations_max, limits.block_whole_within_s) == (16 * KIB, 8, 5.0)
    assert (limits.size_updates_max, limits.header_list_bytes_max) == (2, 8 * KIB)
    assert (limits.frame_bytes_max, limits.message_bytes_max, limits.stream_message_bytes_max) == (16_384, 256 * KIB, 4 * MIB)
    assert (limits.control_frames_queued_max, limits.pings_max, limits.pings_per_s) == (1_000, 100, 10.0)
    assert limits.preface_within_s == 5.0
    assert limits.connection_window + limits.large_messages_bytes + limits.inflated_bytes <= 24 * MIB
    assert limits.stream_window >= limits.message_bytes_max + 5
    assert limits.large_messages_bytes >= limits.stream_message_bytes_max
