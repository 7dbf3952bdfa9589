"""Publish bodies that cost more than they weigh, or that say a thing twice: depth, numbers, duplicates, compressed bombs, very many events.

Each is taken whole or refused whole with a problem that says why, within the daemon's memory; the same goes for a WebSocket's commands.
"""

import gzip
import json
import zlib
from contextlib import ExitStack
from functools import lru_cache

import pytest

from harness.api import problem
from harness.frames import Frames, text
from harness.load import in_threads
from harness.raw import Raw, exchange, publish, statuses

SETTINGS = {"LIMITS__BODY_BYTES": "4MiB", "LIMITS__BODIES_BYTES": "32MiB"}
BODY_MAX, EVENTS_MAX = 4 << 20, 50_000
GOOD = '{"kind":"k","data":1}'
each_format = pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "application/cloudevents+json",
                                                       "application/cloudevents-batch+json"], ids=["json", "ndjson", "cloudevent", "cloudevents"])


def posted(daemon, room, body, content_type="application/json", **headers):
    """A publish as it was answered."""
    body = body.encode() if isinstance(body, str) else body
    return daemon.request("POST", f"/v1/rooms/{room}/events", data=body,
                          headers={"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}})


def nested(depth, opening="[", closing="]", inside=""):
    return opening * depth + inside + closing * depth


# Depth

DEEP = {"arrays": ("[", "]", ""), "objects": ('{"a":', "}", "1"), "mixed": ('[{"a":', "}]", "null")}


@pytest.mark.parametrize("shape", DEEP)
def test_data_of_ordinary_depth_is_taken(victim, room, shape):
    data = nested(20, *DEEP[shape])
    assert posted(victim, room, f'{{"kind":"k","data":{data}}}').status_code == 202
    assert victim.history(room)["events"][0]["data"] == json.loads(data)


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("depth", [200, 5_000, 8_000])
@pytest.mark.parametrize("format", ["json", "array", "ndjson", "cloudevent", "cloudevents", "websocket"])
def test_data_that_is_nested_too_deep_is_refused(victim, room, shape, depth, format):
    # Somebody who reads it may have a stack: see limits.json_depth.
    data = nested(depth, *DEEP[shape])
    event = f'{{"kind":"k","data":{data}}}'
    cloud = f'{{"specversion":"1.0","id":"1","source":"/s","type":"k","data":{data}}}'
    if format == "websocket":
        with Frames(victim) as client:
            client.send(text(f'{{"type":"publish","id":"d","room":"{room}","kind":"k","data":{data}}}'))
            client.error()
            assert client.alive()
    else:
        body, content_type = {"json": (event, "application/json"), "array": (f"[{GOOD},{event}]", "application/json"),
                              "ndjson": (f"{GOOD}\n{event}\n", "application/x-ndjson"), "cloudevent": (cloud, "application/cloudevents+json"),
                              "cloudevents": (f"[{cloud}]", "application/cloudevents-batch+json")}[format]
        problem(posted(victim, room, body, content_type), 400, 413, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("piece", ["[", '{"a":', '[{"a":', "{", "[[", '"', "[1,"],
                         ids=["array", "object", "mixed", "brace", "arrays", "quote", "list"])
@each_format
def test_a_body_of_nothing_but_beginnings_is_refused(victim, room, piece, content_type):
    for prefix in ("", '{"kind":"k","data":', "["):
        problem(posted(victim, room, prefix + piece * 100_000, content_type), 400, 413, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("field", ["data", "id", "rooms", "type", "unknown"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_command_nested_without_end_is_an_error_and_the_connection_stays(victim, field, closed):
    deep = nested(45_000) if closed else "[" * 90_000
    with Frames(victim) as client:
        client.send(text(f'{{"type":"ping","{field}":{deep}}}'))
        client.error()
        client.send(text(deep))
        client.error()
        assert client.alive()


# Numbers, strings, duplicates

NUMBERS = ["1e400", "-1e400", "1e-400", "1E+9999999999", "9" * 10_000, "-" + "9" * 400, "0." + "1" * 10_000, "1e" + "9" * 1000, "-0", "-0.0",
           "18446744073709551616", "9223372036854775808", "0.1e1", "1" + "0" * 309]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:14])
def test_a_number_of_any_size_in_data_is_kept_as_it_is_or_refused(victim, room, number):
    answer = posted(victim, room, f'{{"kind":"k","data":[{number}]}}')
    assert answer.status_code in (202, 400, 422), answer.text
    if answer.status_code == 202:
        assert f'"data":[{number}]' in victim.get(f"/v1/rooms/{room}/events").text, "no digit is lost"


@pytest.mark.parametrize("number", ["01", "+1", "1.", ".5", "1e", "0x10", "NaN", "Infinity", "-Infinity", "1_000", "--1", "1e+", "-", "1 2", "٣"])
def test_what_is_no_json_number_is_refused(victim, room, number):
    problem(posted(victim, room, f'{{"kind":"k","data":{number}}}'), 400)
    assert victim.room(room) is None


@pytest.mark.parametrize("number", [*NUMBERS[:8], "-1", "1.5", "253402300800000"], ids=lambda number: number[:14])
def test_a_timestamp_that_is_no_time_is_refused(victim, room, number):
    problem(posted(victim, room, f'{{"kind":"k","data":1,"timestamp":{number}}}'), 400, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("fields", ['"kind":"a","kind":"b","data":1', '"kind":"a","data":1,"data":2', '"kind":"a","data":1,"id":"x","id":"y"',
                                    '"kind":"a","data":1,"key":"x","key":null',
                                    '"kind":"a","data":1,"priority":"low","priority":"critical"', '"kind":"a","\\u006bind":"b","data":1'],
                         ids=["kind", "data", "id", "key", "priority", "escaped"])
@pytest.mark.parametrize("format", ["json", "array", "ndjson"])
def test_a_field_said_twice_is_refused(victim, room, fields, format):
    # Two readers may go by two of them; what an operator allowed and what a reader sees must be one.
    body = {"json": f"{{{fields}}}", "array": f"[{GOOD},{{{fields}}}]", "ndjson": f"{GOOD}\n{{{fields}}}"}[format]
    problem(posted(victim, room, body, "application/x-ndjson" if format == "ndjson" else "application/json"), 400, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("fields", ['"type":"ping","type":"get_stats"', '"type":"ping","id":"1","id":"2"', '"type":"ping","data":1,"data":2',
                                    '"type":"publish","room":"dup:a","room":"dup:b","kind":"k","data":1',
                                    '"type":"subscribe","rooms":["x"],"rooms":["y"]'],
                         ids=["type", "id", "data", "room", "rooms"])
def test_a_command_that_says_a_field_twice_is_an_error(victim, fields):
    with Frames(victim) as client:
        client.send(text(f"{{{fields}}}"))
        client.error()
        assert client.alive()
    assert victim.room("dup:a") is None and victim.room("dup:b") is None


def test_duplicates_inside_data_are_the_publisher_s_own(victim, room):
    assert posted(victim, room, '{"kind":"k","data":{"a":1,"a":2}}').status_code == 202
    assert '"data":{"a":1,"a":2}' in victim.get(f"/v1/rooms/{room}/events").text


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud800x", "\\uD83E"])
@pytest.mark.parametrize("field", ["kind", "key", "id", "data"])
def test_a_lone_surrogate_is_refused_or_kept_as_it_was_written(victim, room, escape, field):
    fields = {"kind": '"k"', "data": "1", field: f'"{escape}"'}
    answer = posted(victim, room, "{%s}" % ",".join(f'"{name}":{value}' for name, value in fields.items()))
    if field == "data":
        assert answer.status_code in (202, 400, 422), answer.text
    else:
        problem(answer, 400, 422)
    if answer.status_code == 202:
        page = victim.get(f"/v1/rooms/{room}/events")
        assert f'"data":"{escape}"' in page.content.decode("utf-8"), "strictly UTF-8, and nothing else than was said"


@pytest.mark.parametrize("body", ['{"kind":"k","data":"a\0b"}', '{"kind":"a\0b","data":1}', '{"kind":"k",\0"data":1}', "\0" + GOOD, GOOD + "\0",
                                  "\0" * 10_000, '{"kind":"k","data":"a\nb"}',
                                  '{"kind":"k","data":"\x1b[2J"}', '{"kind":"k","data":"a\x01"}'],
                         ids=["in-data", "in-kind", "between", "first", "last", "only", "newline-in-text", "escape", "control"])
def test_a_raw_control_character_in_json_is_refused(victim, room, body):
    problem(posted(victim, room, body), 400)
    assert victim.room(room) is None


def test_an_escaped_nul_in_data_is_kept(victim, room):
    victim.publish(room, {"kind": "k", "data": {"a\0b": "\0"}})
    assert victim.history(room)["events"][0]["data"] == {"a\0b": "\0"}


@pytest.mark.parametrize("body", [GOOD.encode("utf-16"), GOOD.encode("utf-16-le"), GOOD.encode("utf-32"),
                                  '{"kind":"k","data":"ä"}'.encode("latin-1"), b'{"kind":"k","data":"\xed\xa0\x80"}',
                                  b'{"kind":"k","data":"\xc0\x80"}', b'{"kind":"k","\xff":1,"data":1}', b'{"kind":"k","data":"\xf4\x90\x80\x80"}',
                                  b'{"kind":"k","data":"\xe2\x82"}'],
                         ids=["utf16", "utf16-le", "utf32", "latin1", "surrogate", "overlong", "field-name", "beyond", "truncated"])
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-16", "application/x-ndjson"],
                         ids=["json", "charset", "ndjson"])
def test_a_body_that_is_not_utf8_is_refused(victim, room, body, content_type):
    problem(posted(victim, room, body, content_type), 400, 415)
    assert victim.room(room) is None


# Much of little

@pytest.mark.parametrize("body", [" ", "\n", " \t\r\n" * 10, " " * BODY_MAX, "\n" * BODY_MAX, "\r\n" * (BODY_MAX // 2)],
                         ids=["space", "newline", "mixed", "spaces-full", "newlines-full", "both-full"])
@each_format
def test_a_body_of_whitespace_is_refused(victim, room, body, content_type):
    problem(posted(victim, room, body, content_type), 400, 413, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("format", ["array", "ndjson"])
def test_as_many_events_as_a_body_may_hold_are_taken_and_one_more_is_refused(victim, room, format):
    def body(count):
        return "\n".join([GOOD] * count) if format == "ndjson" else "[" + ",".join([GOOD] * count) + "]"

    content_type = "application/x-ndjson" if format == "ndjson" else "application/json"
    problem(posted(victim, room, body(EVENTS_MAX + 1), content_type), 413)
    assert victim.room(room) is None
    answer = posted(victim, room, body(EVENTS_MAX), content_type)
    assert answer.status_code == 202 and answer.json()["count"] == EVENTS_MAX, answer.text
    assert victim.room(room)["held"] == EVENTS_MAX


@pytest.mark.parametrize("item", ["{}", "[]", "1", "null", '""', "{", '{"kind":1}'],
                         ids=["objects", "arrays", "numbers", "nulls", "texts", "braces", "wrong-kinds"])
@pytest.mark.parametrize("format", ["array", "ndjson"])
def test_very_many_wrong_events_are_refused_in_a_short_answer(victim, room, item, format):
    count = (BODY_MAX - 10) // (len(item) + 1)
    body = "\n".join([item] * count) if format == "ndjson" else "[" + ",".join([item] * count) + "]"
    answer = posted(victim, room, body, "application/x-ndjson" if format == "ndjson" else "application/json")
    problem(answer, 400, 413, 422)
    assert len(answer.content) < 20_000
    assert victim.room(room) is None


@pytest.mark.parametrize("body", ['{"kind":"%s","data":1}', '{"kind":"k","data":1,"%s":1}', '{"kind":"k","data":1,"priority":"%s"}',
                                  '{"kind":"k","data":1,"timestamp":"%s"}', '"%s"',
                                  '[{"%s":1}]', '{"kind":"k","data":"%s"}'],
                         ids=["kind", "name", "priority", "timestamp", "text", "in-array", "data"])
@pytest.mark.parametrize("filler", ["x", "\\u0000", "ä", "\\\\"], ids=["letters", "escapes", "umlauts", "backslashes"])
def test_one_huge_text_is_refused_in_a_short_answer(victim, room, body, filler):
    answer = posted(victim, room, body % (filler * ((BODY_MAX - 100) // len(filler.encode()))))
    problem(answer, 400, 413, 422)
    assert len(answer.content) < 20_000
    assert victim.room(room) is None


# Bodies may take 32 MiB, what they hold as much again, and the log's queue and the room its part; all bodies together are 220 MiB, twice over.
@pytest.mark.growth(160 << 20)
def test_many_large_bodies_at_once_are_bounded(victim, room):
    # limits.bodies_bytes: what has no place is told to come back.
    body = "[" + ",".join(['{"kind":"k","data":"%s"}' % ("x" * 900)] * 4000) + "]"

    def post():
        return statuses(exchange(victim, publish(victim, room, "Connection: close", body=body.encode())))

    found = in_threads([post] * 60)
    assert all(one in ([202], [429], []) for one in found), found
    assert any(one == [202] for one in found), "some have a place"


# Compressed

@lru_cache(maxsize=None)
def bomb(size, filler=b" "):
    """gzip that unpacks to so many MiB: members of 16 MiB in a row, which read as one."""
    return gzip.compress(filler * ((16 << 20) // len(filler))) * (size // 16)


def test_a_body_in_gzip_is_taken_as_what_it_was(victim, room):
    assert posted(victim, room, gzip.compress(GOOD.encode()), Content_Encoding="gzip").json()["count"] == 1
    lines = gzip.compress("\n".join([GOOD] * 1000).encode())
    assert posted(victim, room, lines, "application/x-ndjson", Content_Encoding="GZIP").json()["count"] == 1000


def test_a_body_in_gzip_may_come_in_pieces_and_members(victim, room):
    packed = gzip.compress(b'{"kind":"k",') + gzip.compress(b'"data":1}')
    wire = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
    data = publish(victim, room, "Transfer-Encoding: chunked", "Content-Encoding: gzip", "Connection: close", body=wire, length=False)
    assert statuses(exchange(victim, data)) == [202]


@pytest.mark.parametrize("filler", [b" ", b"[", b"\0", (GOOD + "\n").encode()], ids=["spaces", "brackets", "nul", "events"])
@pytest.mark.parametrize("size", [16, 1024], ids=["16-MiB", "1-GiB"])
@each_format
def test_a_gzip_bomb_is_answered_413_within_the_memory_of_an_ordinary_body(victim, room, filler, size, content_type):
    problem(posted(victim, room, bomb(size, filler), content_type, Content_Encoding="gzip"), 413)
    assert victim.room(room) is None


@pytest.mark.parametrize("size", [4, 256], ids=["up-to-the-limit", "bombs"])
def test_many_packed_bodies_at_once_count_as_what_they_unpack_to(victim, room, size):
    # limits.bodies_bytes holds for them as for others: each is a few KB on the wire and limits.body_bytes in memory.
    packed = gzip.compress(b" " * BODY_MAX) if size == 4 else bomb(size)
    data = publish(victim, room, "Content-Encoding: gzip", "Content-Type: application/x-ndjson", "Connection: close", body=packed)
    with ExitStack() as stack:
        connections = [stack.enter_context(Raw(victim)) for _ in range(100)]
        for connection in connections:
            connection.send(data[:-1])
        for connection in connections:
            connection.send(data[-1:])
        found = [statuses(connection.answers(timeout=40)) for connection in connections]
    assert all(one in ([413], [422], [429]) for one in found), found


@pytest.mark.parametrize("over", [0, 1], ids=["at-the-limit", "one-over"])
def test_the_limit_of_a_body_counts_what_it_is_unpacked(victim, room, over):
    body = GOOD.encode() + b" " * (BODY_MAX - len(GOOD) + over)
    assert posted(victim, room, gzip.compress(body), "application/x-ndjson", Content_Encoding="gzip").status_code == (413 if over else 202)


PACKED = gzip.compress(GOOD.encode())


@pytest.mark.parametrize("body", [b"", b"\x1f", PACKED[:10], PACKED[:-1], PACKED[:-8], PACKED[:-4] + b"\0\0\0\1",
                                  PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], PACKED + b"garbage", GOOD.encode(),
                                  b"\x1f\x8b\x08" + b"\xff" * 1000, zlib.compress(GOOD.encode()), gzip.compress(PACKED),
                                  PACKED[:3] + b"\x1f" + PACKED[4:]],
                         ids=["empty", "one-byte", "head", "cut", "no-end", "wrong-length", "wrong-sum", "garbage-after", "plain", "wrong-head",
                              "zlib", "twice", "flags"])
def test_a_body_that_is_no_good_gzip_is_refused(victim, room, body):
    problem(posted(victim, room, body, Content_Encoding="gzip"), 400, 422)
    assert victim.room(room) is None


@pytest.mark.parametrize("coding", ["deflate", "br", "zstd", "compress", "gzip, gzip", "gzip, br", "gzip;q=1", "x", "gzipp", "*", ","])
def test_a_body_in_another_encoding_is_answered_415(victim, room, coding):
    for body in (GOOD.encode(), PACKED):
        problem(posted(victim, room, body, Content_Encoding=coding), 415)
    assert victim.room(room) is None


@pytest.mark.parametrize("codings", [("gzip", "gzip"), ("gzip", "br"), ("identity", "br"), ("br", "gzip")], ids="-".join)
def test_a_body_in_two_encodings_in_two_lines_is_refused(victim, room, codings):
    data = publish(victim, room, *(f"Content-Encoding: {coding}" for coding in codings), "Connection: close", body=PACKED)
    assert statuses(exchange(victim, data)) in ([400], [415])
    assert victim.room(room) is None


@pytest.mark.parametrize("name", ["a.gz" * 30_000, "x"], ids=["huge", "small"])
def test_the_names_in_a_gzip_head_are_passed_over_within_the_limits(victim, room, name):
    packed = PACKED[:3] + b"\x08" + PACKED[4:10] + name.encode() + b"\0" + PACKED[10:]
    assert posted(victim, room, packed, Content_Encoding="gzip").status_code in ((202,) if name == "x" else (202, 400, 413))
