"""Tools of the black-box tests: the real daemon and the real clients. Nothing here knows a test.

`process` starts and ends children, `daemon` runs tidegate, `api` speaks plain HTTP, `sse` reads with curl, `ws` speaks
WebSocket, `browser` drives Chromium, `load` publishes from threads and checks what readers saw.
"""
