"""uWebSockets through socketify: its own topics, published to by `app.publish`, which frames an event once and gathers what a socket gets."""

import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode


def upgrade(response, request, context):
    """The room becomes the socket's data; the request is gone after this."""
    response.upgrade(
        request.get_header("sec-websocket-key"),
        request.get_header("sec-websocket-protocol"),
        request.get_header("sec-websocket-extensions"),
        context,
        request.get_parameter(0),
    )


# The library holds a response by its address alone while the body comes; one that nobody names would be collected, and the process end with it.
unanswered = set()


def publish(response, request):
    """Hands the body on before it answers."""
    room = request.get_parameter(0)
    chunks = []
    unanswered.add(response)

    def take(response, chunk, is_last):
        if chunk:
            chunks.append(chunk)
        if is_last:
            app.publish(room, b"".join(chunks), OpCode.TEXT)
            response.write_status("202 Accepted").end("{}")
            unanswered.discard(response)

    response.on_data(take)
    response.on_aborted(unanswered.discard)


app = App()
app.ws(
    "/rooms/:room",
    {
        "compression": CompressOptions.DISABLED,
        # By default a reader that is 64 KiB behind is left out without a word.
        "max_backpressure": 16 << 20,
        "idle_timeout": 0,
        "upgrade": upgrade,
        "open": lambda socket: socket.subscribe(socket.get_user_data()),
    },
)
app.post("/rooms/:room", publish)
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda config: None)
app.run()
