"""Tools of the black-box tests: the real daemon and the real clients. Nothing here knows a test.

`process` starts and ends children, `daemon` runs tidegate, `api` speaks plain HTTP, `sse` reads with curl, `ws` speaks
WebSocket, `browser` drives Chromium, `load` publishes from threads and checks what readers saw, `tokens` makes
keys, tokens, hashes and a JWKS server. `raw` and `frames` speak HTTP and WebSocket by hand, to say what no client would;
`hostile` looks at what that did.
`served` has readers that say how they want to be served, alike on every transport; `books` reads what the daemon counts of one.
`prometheus` runs the real Prometheus with the configuration of grafana/.
`openapi` reads the description of the HTTP API and the router's source, and runs the real Schemathesis, which is told the
rest by `schemathesis_hooks` and schemathesis.toml.
`recorded` has the recording of a real machine in tests/data, `figures` says with pandas, numpy and exact arithmetic what pipelines must make of it.
`contract` holds messages against docs/asyncapi.yaml, `nginx` is the real one with config/nginx.conf.
"""
