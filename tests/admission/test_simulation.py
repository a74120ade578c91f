"""The script against the oracle over seeded lives, first with the real Lua in this process, then on real servers."""

import random
from collections.abc import Iterator

import pytest

from extauthz.admission.script import ADMIT
from tests.oracles.admission import RealScript
from tests.oracles.simulated_redis import SimulatedRedis
from tests.oracles.simulation import STEPS, T0, Life, Server


def live(seed: int, server: Server) -> Life:
    """One life. A failure names its seed."""
    server.now_ms = T0
    life = Life(seed, server)
    try:
        life.live()
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise
    return life


@pytest.mark.prove(18)
def test_the_production_script_agrees_with_the_oracle_in_every_simulated_life(proving: bool) -> None:
    lives = 100_000 if proving else 1_000
    first = random.randrange(2**32)
    server = SimulatedRedis(ADMIT.source, T0)
    admitted = denied = 0
    for seed in range(first, first + lives):
        server.clear(T0)
        life = live(seed, server)
        admitted, denied = admitted + life.admitted, denied + life.denied
    assert admitted > 2 * lives
    assert denied > 2 * lives
    print(f"simulation: {lives} lives of {STEPS} steps from seed {first}: {admitted} admitted, {denied} denied")


@pytest.fixture
def real(each_redis_url: str) -> Iterator[RealScript]:
    script = RealScript(each_redis_url)
    yield script
    script.close()


@pytest.mark.prove(18)
def test_real_servers_agree_with_it_too(real: RealScript, proving: bool) -> None:
    lives = 1_000 if proving else 20
    first = random.randrange(2**32)
    for seed in range(first, first + lives):
        real.client.flushall()
        live(seed, real)
    print(f"replay on a real server: {lives} lives from seed {first}")
