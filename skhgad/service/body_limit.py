"""An ASGI middleware that takes no request larger than a limit."""


class BodyLimit:
    """Answers 413 once a request has more bytes than `n_bytes`, declared or not."""

    def __init__(self, app, n_bytes):
        self.app = app
        self.n_bytes = n_bytes

    async def __call__(self, scope, receive, send):
        """Pass a request on, and count its bytes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # Python refuses to parse thousands of digits.
        if not declared.isdigit() or len(declared) > 20 or int(declared) > self.n_bytes:
            await self._refuse(send)
            return
        n_seen, has_answered, is_refused = 0, False, False

        async def counted_receive():
            nonlocal n_seen, is_refused
            message = await receive()
            n_seen += len(message.get("body", b""))
            if n_seen > self.n_bytes:
                is_refused = True
                return {"type": "http.disconnect"}
            return message

        async def watched_send(message):
            nonlocal has_answered
            if not is_refused:
                has_answered = True
                await send(message)

        try:
            await self.app(scope, counted_receive, watched_send)
        except Exception:
            if not is_refused:
                raise
        if is_refused and not has_answered:
            await self._refuse(send)

    async def _refuse(self, send):
        body = f'{{"detail":"the request is larger than {self.n_bytes} bytes."}}'.encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
