# tidegate in a container:
#
#     docker build -t tidegate .
#     docker run -d --name tidegate -p 127.0.0.1:8000:8000 -v tidegate:/var/lib/tidegate tidegate
#     docker exec tidegate cat data/token
#
# It runs as a user without rights, writes to /var/lib/tidegate only (docker run --read-only works), and needs no capability
# (--cap-drop ALL). Settings are its environment: -e TIDEGATE_LOGGING__FORMAT=json. Other commands: docker exec tidegate tidegate
# tail 'host:*'.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches stay with the builder, so that only what has changed is built again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --package tidegate \
 && install -m 755 target/dist/tidegate /usr/local/bin/tidegate

FROM debian:bookworm-slim
# The certificates are for key sets that are fetched over https (auth.jwks_url).
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 tidegate \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tidegate --shell /usr/sbin/nologin tidegate \
 && install -d -m 700 -o tidegate -g tidegate /var/lib/tidegate
COPY --from=build /usr/local/bin/tidegate /usr/local/bin/tidegate
# Whoever publishes the port decides who reaches it; without TLS that should be this machine alone.
ENV TIDEGATE_SERVER__LISTEN=0.0.0.0:8000
USER 10001:10001
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
EXPOSE 8000
# The process answers. Where server.tls_cert is set, put another check in its place (docker run --health-cmd).
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 4 _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["/usr/local/bin/tidegate"]
CMD ["serve"]
