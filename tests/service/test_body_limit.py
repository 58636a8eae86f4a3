"""Requests that are too large or never end."""

import asyncio

import pytest

from skhgad.service.body_limit import BodyLimit


def answer_to(pieces, *, declared=None, pause=0.0):
    """Send pieces of a body to an application behind a limit of 100 bytes and 0.2 s.

    Returns the status of the answer, and how many bytes were read.
    """
    pieces, sent, n_read = list(pieces), [], 0

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client left")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        nonlocal n_read
        await asyncio.sleep(pause if pieces else 60)
        body = pieces.pop(0)
        n_read += len(body)
        return {"type": "http.request", "body": body, "more_body": body != b""}

    async def send(message):
        sent.append(message)

    headers = [] if declared is None else [(b"content-length", declared)]
    scope = {"type": "http", "headers": headers}
    asyncio.run(BodyLimit(application, 100, seconds=0.2)(scope, receive, send))
    return sent[0]["status"], n_read


@pytest.mark.parametrize("pieces, pause", [([b"x"], 0.0), ([b"x"] * 50, 0.05)])
def test_a_sender_that_stops_or_crawls_is_answered_408(pieces, pause):
    """A sender that vanishes held its connection for ever; at the limit of them, all got 503."""
    assert answer_to(pieces, pause=pause)[0] == 408


def test_a_request_in_time_passes():
    assert answer_to([b"x" * 60, b"x" * 40, b""], pause=0.01) == (200, 100)


@pytest.mark.parametrize("declared", [None, b"250"])
def test_what_is_too_large_is_read_so_that_the_sender_hears_why(declared):
    """A connection that is closed while the sender writes is reset: no status arrives."""
    assert answer_to([b"x" * 50] * 5 + [b""], declared=declared) == (413, 250)


def test_what_is_far_too_large_is_not_read():
    assert answer_to([b"x" * 50] * 100 + [b""], declared=b"9999") == (413, 0)
    assert answer_to([b"x" * 50] * 100 + [b""])[1] <= 450
    assert answer_to([], declared=b"9" * 5000) == (413, 0)
