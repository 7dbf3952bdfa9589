"""FastAPI and uvicorn: the loop that one writes at home. A room is a set of sockets, and an event is awaited to each in turn, as FastAPI's documentation shows."""

import asyncio
import sys
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import Response, StreamingResponse

app = FastAPI(openapi_url=None)
sockets: dict[str, set[WebSocket]] = defaultdict(set)
streams: dict[str, set[asyncio.Queue[str]]] = defaultdict(set)


@app.websocket("/rooms/{room}")
async def follow_socket(socket: WebSocket, room: str) -> None:
    """Sends what is published until the reader goes."""
    await socket.accept()
    sockets[room].add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets[room].discard(socket)


@app.get("/rooms/{room}")
async def follow_stream(room: str) -> StreamingResponse:
    """The same as Server-Sent Events."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    streams[room].add(queue)

    async def events():
        try:
            while True:
                yield await queue.get()
        finally:
            streams[room].discard(queue)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/rooms/{room}")
async def publish(room: str, request: Request) -> Response:
    """Hands the body on before it answers."""
    body = (await request.body()).decode()
    message = f"data: {body}\n\n"
    for queue in streams[room]:
        queue.put_nowait(message)
    # A copy: readers come and go while a send waits.
    for socket in list(sockets[room]):
        try:
            await socket.send_text(body)
        except (WebSocketDisconnect, RuntimeError):
            sockets[room].discard(socket)
    return Response("{}", status_code=202, media_type="application/json")


uvicorn.run(
    app,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    loop="uvloop",
    http="httptools",
    ws="websockets-sansio",
    ws_per_message_deflate=False,
    access_log=False,
    log_level="warning",
    backlog=4096,
)
