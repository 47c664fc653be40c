"""Limits on what is counted by the piece: images that are made, seconds of audio that are listened to."""

from __future__ import annotations

import json

from policyd.core.policy import Metric
from tests.builders import World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import reply_headers, request_headers, to_json

IMAGES = limit(Metric.IMAGES, 5, name="images", status=429)
LISTENED = limit(Metric.AUDIO_SECONDS, 1_000_000, name="listened", status=429)


async def image_request(world: World, images: int, request_id: str) -> Envoy:
    envoy = Envoy(world, request_id=request_id)
    body = to_json({"model": "dall-e-2", "prompt": "A cat.", "n": images, "size": "256x256"})
    await envoy.request(request_headers(body, path="/v1/images/generations"), [body])
    return envoy


async def test_images_are_held_and_charged_by_the_piece() -> None:
    world = World(policy(IMAGES, limit()))
    envoy = await image_request(world, 3, "pd-1")
    assert (await world.books()).reserved["images"] == 3
    reply = to_json({"created": 1, "data": [{"url": "https://example.com/cat.png"}] * 3})
    await envoy.response(reply_headers(length=len(reply)), [reply])
    await envoy.close()
    assert await world.spent("images") == 3
    refused = await image_request(world, 3, "pd-2")
    assert refused.client.status == 429
    told = wire.decision_fields(refused.client.body)
    assert (told["reason"], told["limits"][0]["remaining"]) == ("media_limit_exceeded", 2)
    assert "needs 3" in json.loads(refused.client.body)["error"]["message"]


async def test_seconds_of_audio_are_charged_as_they_were_heard() -> None:
    world = World(policy(LISTENED, limit()))
    envoy = Envoy(world)
    fields = {"model": "whisper-1", "response_format": "verbose_json"}
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    file = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + "a" * 1000 + "\r\n--x--\r\n"
    body = "".join([*parts, file]).encode()
    headers = request_headers(body, path="/v1/audio/transcriptions")
    await envoy.request(headers | {"content-type": "multipart/form-data; boundary=x"}, [body])
    assert (await world.books()).reserved["listened"] > 0
    reply = to_json({"text": "Hello.", "duration": 12.4, "usage": {"type": "duration", "seconds": 13}})
    await envoy.response(reply_headers(length=len(reply)), [reply])
    await envoy.close()
    assert await world.spent("listened") == 13
