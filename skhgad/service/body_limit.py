"""An ASGI middleware that takes no request that is larger, or slower, than a limit."""

import asyncio

SECONDS = 120.0  # in which a request must be there
_DRAINED = 4  # times the limit that is read of a larger request, so that its sender hears why


class BodyLimit:
    """Answers 413 once a request has more bytes than `n_bytes`, declared or not.

    A request that is not there after `seconds` is answered with 408: a sender that vanished would
    hold its connection for ever.
    """

    def __init__(self, app, n_bytes, seconds=SECONDS):
        self.app = app
        self.n_bytes = n_bytes
        self.seconds = seconds

    async def __call__(self, scope, receive, send):
        """Pass a request on, and count its bytes and its time."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # Python refuses to parse thousands of digits.
        is_number = declared.isdigit() and len(declared) <= 20
        if not is_number or int(declared) > _DRAINED * self.n_bytes:
            await _answer(send, *self._too_large())
            return
        body = _Body(receive, self.n_bytes, self.seconds)
        has_answered = False

        async def watched_send(message):
            nonlocal has_answered
            if not body.is_refused:
                has_answered = True
                await send(message)

        try:
            if int(declared) > self.n_bytes:
                await body.drain()
            else:
                await self.app(scope, body.receive, watched_send)
        except Exception:
            if not body.is_refused:
                raise
        if body.is_refused and not has_answered:
            await _answer(send, *(self._too_slow() if body.is_late else self._too_large()))

    def _too_large(self):
        return 413, f"the request is larger than {self.n_bytes} bytes."

    def _too_slow(self):
        return 408, f"the request was not there after {self.seconds:g} seconds."


class _Body:
    """Receives a request; the application sees a disconnected client once it `is_refused`."""

    def __init__(self, receive, n_bytes, seconds):
        self._receive, self._n_bytes = receive, n_bytes
        self._end = asyncio.get_running_loop().time() + seconds
        self._n_seen, self._is_whole = 0, False
        self.is_refused = self.is_late = False

    async def receive(self):
        if self._is_whole:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        message = await self._next()
        if self._n_seen > self._n_bytes:
            await self.drain()
        return {"type": "http.disconnect"} if self.is_refused else message

    async def drain(self):
        """Refuse the request, and read on for a while: a closed connection tells no reason."""
        self.is_refused = True
        while not self._is_whole and not self.is_late and self._n_seen < _DRAINED * self._n_bytes:
            await self._next()

    async def _next(self):
        left = self._end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.0))
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            self.is_late = self.is_refused = True
            return None
        self._n_seen += len(message.get("body", b""))
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


async def _answer(send, status, detail):
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f'{{"detail":"{detail}"}}'.encode()})
