"""Traces over OTLP: off unless told otherwise; one span for a publish and one for a delivery, under the trace of whoever published.

The collector is a small HTTP server here that reads what arrives with OpenTelemetry's own protocol definitions.
"""

import http.server
import secrets
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.process import eventually

ROOM = "traced:1"  # which no sink follows: its delivery would be a part of the trace too


class Collector:
    def __init__(self):
        spans = self.spans = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend((self.path, span) for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, trace):
        return {span.name: (path, span) for path, span in list(self.spans) if span.trace_id.hex() == trace}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


def attributes(span):
    return {one.key: one.value.string_value for one in span.attributes}


def publish(daemon, traceparent):
    headers = {"Authorization": f"Bearer {daemon.key}", "traceparent": traceparent}
    answer = daemon.session.post(f"{daemon.url}/v1/rooms/{ROOM}/events", json={"kind": "k", "data": 1}, headers=headers, timeout=10)
    assert answer.status_code == 202
    return answer.json()["first_seq"]


def test_the_trace_of_a_publisher_goes_on_to_the_delivery(start_daemon, ws, collector):
    daemon = start_daemon(TRACING__OTLP_ENDPOINT=collector.url)
    reader = ws(daemon, ROOM)
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    seq = publish(daemon, f"00-{trace}-{parent}-01")
    assert reader.event()["seq"] == seq
    daemon.terminate()  # what waits is sent before the end
    eventually(lambda: len(collector.of(trace)) == 2, "both spans have come")
    spans = collector.of(trace)
    path, published = spans["publish"]
    _, delivered = spans["deliver"]
    assert path == "/v1/traces"
    assert published.parent_span_id.hex() == parent and delivered.parent_span_id == published.span_id
    assert attributes(published)["tidegate.room"] == ROOM and attributes(published)["tidegate.first_seq"] == str(seq)
    assert attributes(delivered)["tidegate.transport"] == "websocket" and attributes(delivered)["tidegate.seq"] == str(seq)
    assert published.start_time_unix_nano <= delivered.start_time_unix_nano <= delivered.end_time_unix_nano


def test_a_publisher_that_does_not_trace_is_not_traced(start_daemon, collector):
    daemon = start_daemon(TRACING__OTLP_ENDPOINT=collector.url)
    quiet, loud = secrets.token_hex(16), secrets.token_hex(16)
    publish(daemon, f"00-{quiet}-{secrets.token_hex(8)}-00")
    publish(daemon, f"00-{loud}-{secrets.token_hex(8)}-01")
    daemon.terminate()
    eventually(lambda: collector.of(loud), "the span has come")
    assert not collector.of(quiet)


def test_without_an_endpoint_nothing_is_traced_and_a_broken_one_disturbs_nobody(start_daemon):
    for endpoint in ["", "http://127.0.0.1:9"]:
        daemon = start_daemon(TRACING__OTLP_ENDPOINT=endpoint)
        publish(daemon, f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01")
        daemon.terminate()
