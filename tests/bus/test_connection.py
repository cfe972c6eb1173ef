"""A bus keeps its connection and its subscriptions whatever becomes of the server."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from holdfast.bus import Bus, Intake, Msg
from holdfast.exceptions import Invalid, Unavailable
from tests.bus.rig import PATIENCE_S, Heard, MakeBus, NatsServer, happens, logged


async def test_a_bus_started_before_its_server_connects_when_the_server_comes(
    stopped_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(stopped_nats, is_connected=False)
    with pytest.raises(
        Unavailable, match=rf"no connection to NATS at {stopped_nats.address} within .*Connect call failed"
    ):
        await bus.connected(0.3)

    stopped_nats.start()

    await bus.connected(PATIENCE_S)
    assert bus.is_connected


async def test_subscriptions_made_before_the_server_exists_are_in_force_once_it_is_up(
    stopped_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(stopped_nats, is_connected=False)
    heard = Heard()
    subscription = bus.subscribe("a.b", heard.add)
    assert not subscription.is_ready

    stopped_nats.start()
    await bus.connected(PATIENCE_S)

    assert subscription.is_ready
    bus.publish("a.b", b"x")
    await heard.count(1)


async def test_a_bus_comes_back_every_time_its_server_does(nats: NatsServer, make_bus: MakeBus) -> None:
    bus = await make_bus(nats)
    heard = Heard()
    bus.subscribe("news", heard.add)

    for round_number in range(1, 4):
        down = happens(bus.on_down)
        nats.kill()
        await down
        assert not bus.is_connected
        up = happens(bus.on_up)
        nats.start()
        await up
        bus.publish("news", b"%d" % round_number)
        await heard.count(round_number)

    assert bus.stats.reconnects == 3
    assert bus.stats.disconnects == 3


async def test_the_second_server_of_a_list_is_used_when_the_first_is_away(
    stopped_nats: NatsServer, calm_nats: NatsServer
) -> None:
    bus = Bus([stopped_nats.address, calm_nats.address], name="two servers")
    await bus.start()

    await bus.connected(PATIENCE_S)

    await bus.close()


async def test_what_is_published_while_the_server_is_away_is_not_kept_for_later(
    nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(nats)
    heard = Heard()
    bus.subscribe("news", heard.add)
    down = happens(bus.on_down)
    nats.kill()
    await down

    assert bus.publish("news", b"stale") is False

    assert bus.stats.publish_dropped == 1
    up = happens(bus.on_up)
    nats.start()
    await up
    assert bus.publish("news", b"fresh") is True
    assert [msg.data for msg in await heard.count(1) if isinstance(msg, Msg)] == [b"fresh"]


async def test_a_subscription_that_says_ready_misses_nothing_another_client_publishes_from_then_on(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    """nats-py's flush overtakes subscriptions that are still queued, so one flush proves nothing there."""
    listener, speaker = await make_bus(calm_nats), await make_bus(calm_nats)

    for number in range(200):
        heard = Heard()
        subscription = listener.subscribe(f"ready.{number}", heard.add)
        await subscription.ready()
        speaker.publish(f"ready.{number}", b"")
        await heard.count(1)
        await subscription.unsubscribe()


async def test_one_slow_message_does_not_hold_up_the_next(calm_nats: NatsServer, make_bus: MakeBus) -> None:
    bus = await make_bus(calm_nats)
    heard, gate = Heard(), asyncio.Event()

    async def receive(msg: Msg) -> None:
        if msg.data == b"slow":
            await gate.wait()
        heard.add(msg.data)

    bus.subscribe("mixed", receive)
    bus.publish("mixed", b"slow")
    bus.publish("mixed", b"quick")

    assert await heard.count(1) == [b"quick"]
    gate.set()
    assert await heard.count(2) == [b"quick", b"slow"]


async def test_a_receiver_that_stopped_costs_its_own_messages_only_and_a_bounded_number_wait(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    started, gate, others = Heard(), asyncio.Event(), Heard()

    async def receive(msg: Msg) -> None:
        started.add(msg.data)
        await gate.wait()

    bus.subscribe("stuck", receive, intake=Intake(concurrency=2, backlog_max=3))
    bus.subscribe("other", others.add)
    for number in range(10):
        bus.publish("stuck", b"%d" % number)
    bus.publish("other", b"")

    await others.count(1)
    assert bus.stats.receive_dropped == 5
    gate.set()
    assert await started.count(5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_bytes_a_receiver_holds_are_bounded_too_but_one_message_is_always_taken(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)
    started, gate = Heard(), asyncio.Event()

    async def receive(msg: Msg) -> None:
        started.add(len(msg.data))
        await gate.wait()

    bus.subscribe("heavy", receive, intake=Intake(bytes_max=1_000))
    for size in (2_000, 1, 300):
        bus.publish("heavy", bytes(size))
    await started.count(1)
    await bus.request("$JS.API.INFO", b"")
    assert bus.stats.receive_dropped == 2

    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        while len(bus.spawned):
            await bus.request("$JS.API.INFO", b"")
    for size in (300, 600, 200):
        bus.publish("heavy", bytes(size))

    assert await started.count(3) == [2_000, 300, 600]


async def test_a_receiver_that_raises_goes_on_receiving(
    calm_nats: NatsServer, make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await make_bus(calm_nats)
    heard = Heard()

    def receive(msg: Msg) -> None:
        heard.add(msg.data)
        raise ValueError("a mistake")

    bus.subscribe("raising", receive)
    bus.publish("raising", b"1")
    bus.publish("raising", b"2")

    assert await heard.count(2) == [b"1", b"2"]
    assert bus.is_connected
    assert "a receiver of raising failed" in caplog.text


async def test_after_unsubscribing_nothing_more_arrives_even_after_a_reconnect(
    nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(nats)
    dropped, kept = Heard(), Heard()
    subscription = bus.subscribe("news", dropped.add)
    bus.subscribe("news", kept.add)

    await subscription.unsubscribe()
    up = happens(bus.on_up)
    nats.kill()
    nats.start()
    await up
    bus.publish("news", b"")

    await kept.count(1)
    assert dropped.items == []


async def test_a_queue_group_shares_messages_and_headers_arrive(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus, other = await make_bus(calm_nats), await make_bus(calm_nats)
    heard = Heard()
    for member in (bus, other):
        await member.subscribe("work", heard.add, "group").ready()

    for _ in range(20):
        bus.publish("work", b"", {"Holdfast-Events": "WorkflowStarted, WorkflowTaskCompleted"})
    bus.subscribe("end", heard.add)
    bus.publish("end", b"last")

    received = await heard.count(21)
    assert isinstance(received[0], Msg)
    assert received[0].headers == {"Holdfast-Events": "WorkflowStarted, WorkflowTaskCompleted"}
    assert len(received) == 21


@pytest.mark.parametrize("loss", ["restart with another password", "reload"])
async def test_a_bus_whose_credentials_are_revoked_keeps_trying_and_comes_back_when_they_are_restored(
    stopped_nats: NatsServer, make_bus: MakeBus, loss: str
) -> None:
    """nats-py closes a client for good when it is told that its credentials are not good any more."""
    valid, revoked = (
        'authorization { user: "a", password: "right" }',
        'authorization { user: "a", password: "other" }',
    )
    stopped_nats.extra = valid
    stopped_nats.start()
    bus = await make_bus(stopped_nats, credentials="a:right@")
    heard = Heard()
    bus.subscribe("news", heard.add)

    down = happens(bus.on_down)
    if loss == "reload":
        stopped_nats.reload(revoked)
    else:
        stopped_nats.kill()
        stopped_nats.extra = revoked
        stopped_nats.start()
    await down
    with logged("holdfast.bus.connection", "Authorization Violation") as refusals:
        for message in await refusals.count(3):
            assert "right" not in str(message)

    up = happens(bus.on_up)
    stopped_nats.reload(valid)
    await up
    bus.publish("news", b"")
    await heard.count(1)


async def test_a_frozen_server_is_noticed_by_its_silence(nats: NatsServer, make_bus: MakeBus) -> None:
    bus = await make_bus(nats, ping_interval_s=0.1)
    down = happens(bus.on_down)

    nats.freeze()

    await down
    up = happens(bus.on_up)
    nats.thaw()
    await up


async def test_publishing_to_a_frozen_server_neither_blocks_nor_fills_the_memory(
    nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(nats)
    nats.freeze()

    sent = sum(bus.publish("flood", bytes(1024 * 1024)) for _ in range(64))

    assert 0 < sent < 40
    assert bus.stats.publish_dropped == 64 - sent


async def test_a_bus_speaks_tls_with_a_server_that_asks_for_it(
    stopped_nats: NatsServer, make_bus: MakeBus, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=nats"
    making = await asyncio.create_subprocess_exec(
        *("openssl", *request.split(), "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    stopped_nats.extra = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    stopped_nats.start()
    bus = await make_bus(stopped_nats, tls=ssl.create_default_context(cafile=str(certificate)))
    heard = Heard()
    bus.subscribe("secret", heard.add)

    bus.publish("secret", bytes(300_000))

    (msg,) = await heard.count(1)
    assert isinstance(msg, Msg)
    assert len(msg.data) == 300_000


@pytest.mark.parametrize("server", ["http://a:1", "ws://a:1", "nats://", "a:b:c:d", ""])
def test_an_address_that_is_no_nats_server_is_refused_when_the_bus_is_made(server: str) -> None:
    with pytest.raises(Invalid, match="cannot be used"):
        Bus(server, name="test")


@pytest.mark.parametrize("subject", ["a b", "a\r\nPUB x 0\r\n", "", "ä"])
async def test_a_subject_that_would_be_another_command_is_refused(
    calm_nats: NatsServer, make_bus: MakeBus, subject: str
) -> None:
    bus = await make_bus(calm_nats)
    with pytest.raises(Invalid, match="is no subject"):
        bus.publish(subject, b"")
    with pytest.raises(Invalid, match="cannot be sent"):
        bus.publish("fine", b"", {"Nats-Msg-Id": "a\r\nNats-Rollup: all"})


async def test_a_message_larger_than_the_server_takes_is_refused_before_it_ends_the_connection(
    calm_nats: NatsServer, make_bus: MakeBus
) -> None:
    bus = await make_bus(calm_nats)

    with pytest.raises(Invalid, match="NATS takes at most 4,194,304"):
        bus.publish("big", bytes(4_194_305))
    with pytest.raises(Invalid, match="NATS takes at most 4,194,304"):
        await bus.request("big", bytes(4_194_305))

    assert bus.is_connected


async def test_closing_ends_receivers_that_do_not_end_by_themselves(calm_nats: NatsServer) -> None:
    bus = Bus(calm_nats.address, name="closing")
    await bus.start()
    await bus.connected(PATIENCE_S)
    heard = Heard()

    async def receive(msg: Msg) -> None:
        heard.add("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.add("cancelled")
            raise

    bus.subscribe("endless", receive)
    bus.publish("endless", b"")
    await heard.count(1)

    await bus.close(grace_s=0.05)

    assert heard.items == ["started", "cancelled"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
