"""RFC 6455 on /v1/stream: text is UTF-8, wherever it is cut, and text that is not fails the connection with 1007.

The sequences are those of the Autobahn test suite, after Markus Kuhn's decoder test.
"""

import pytest

from harness.frames import BINARY, CONTINUATION, PING, TEXT, Frames, chopped, echo_text, fragments, frame, text

NOT_UTF8 = 1007
GREEK = "κόσμε"
MIXED = "Hello-µ@ßöäüàá-UTF-8!! 水 🦀"

VALID = {
    "two-bytes-first": "\u0080", "two-bytes-last": "\u07ff", "three-bytes-first": "\u0800", "before-the-surrogates": "\ud7ff",
    "after-the-surrogates": "\ue000", "replacement": "\ufffd", "noncharacter-fffe": "\ufffe", "noncharacter-ffff": "\uffff",
    "noncharacter-fdd0": "\ufdd0", "four-bytes-first": "\U00010000", "noncharacter-1fffe": "\U0001fffe", "last-of-all": "\U0010ffff",
    "delete": "\u007f", "byte-order-mark": "\ufeff", "combining": "e\u0301\u0323", "line-separator": "\u2028\u2029", "next-line": "\u0085",
}

INVALID = {
    # Continuation bytes where none belongs.
    "continuation-80": b"\x80", "continuation-bf": b"\xbf", "continuations": b"\x80\xbf\x80\xbf\x80\xbf",
    "all-continuations": bytes(range(0x80, 0xC0)),
    # Beginnings without their rest.
    "start-of-two": b"\xc3 ", "start-of-three": b"\xe1 ", "start-of-four": b"\xf1 ", "two-without-last": b"\xc3", "three-without-last": b"\xe6\xb0",
    "four-without-last": b"\xf0\x9f\xa6", "three-without-two": b"\xe6", "four-without-three": b"\xf0", "four-without-two": b"\xf0\x9f",
    "truncated-ones-in-a-row": b"\xc3\xe6\xb0\xf0\x9f\xa6",
    # Bytes that are never in UTF-8.
    "fe": b"\xfe", "ff": b"\xff", "fefeffff": b"\xfe\xfe\xff\xff", "f5": b"\xf5\x80\x80\x80", "five-bytes": b"\xf8\x88\x80\x80\x80",
    "six-bytes": b"\xfc\x84\x80\x80\x80\x80",
    # Longer than need be.
    "overlong-slash-2": b"\xc0\xaf", "overlong-slash-3": b"\xe0\x80\xaf", "overlong-slash-4": b"\xf0\x80\x80\xaf",
    "overlong-slash-5": b"\xf8\x80\x80\x80\xaf", "overlong-slash-6": b"\xfc\x80\x80\x80\x80\xaf",
    "overlong-max-2": b"\xc1\xbf", "overlong-max-3": b"\xe0\x9f\xbf", "overlong-max-4": b"\xf0\x8f\xbf\xbf",
    "overlong-nul-2": b"\xc0\x80", "overlong-nul-3": b"\xe0\x80\x80", "overlong-nul-4": b"\xf0\x80\x80\x80", "overlong-quote": b"\xc0\xa2",
    # Surrogates.
    "surrogate-d800": b"\xed\xa0\x80", "surrogate-db7f": b"\xed\xad\xbf", "surrogate-db80": b"\xed\xae\x80", "surrogate-dbff": b"\xed\xaf\xbf",
    "surrogate-dc00": b"\xed\xb0\x80", "surrogate-df80": b"\xed\xbe\x80", "surrogate-dfff": b"\xed\xbf\xbf",
    "surrogate-pair": b"\xed\xa0\x80\xed\xb0\x80", "surrogate-pair-last": b"\xed\xaf\xbf\xed\xbf\xbf",
    # Beyond the last code point.
    "beyond-10ffff": b"\xf4\x90\x80\x80", "beyond-f7": b"\xf7\xbf\xbf\xbf", "beyond-five": b"\xfb\xbf\xbf\xbf\xbf",
    "beyond-six": b"\xfd\xbf\xbf\xbf\xbf\xbf",
}


@pytest.fixture
def client(victim):
    with Frames(victim) as connection:
        yield connection


def wrong(sequence, where):
    """An echo command with the sequence at its beginning, inside, or at its end."""
    whole = echo_text(GREEK)
    at = {"first": 0, "inside": whole.index(GREEK.encode()) + 4, "last": len(whole)}[where]
    return whole[:at] + sequence + whole[at:]


@pytest.mark.parametrize("what", VALID)
def test_valid_text_is_taken_as_it_is(client, what):
    client.send(text(echo_text(f"a{VALID[what]}z")))
    client.answered(f"a{VALID[what]}z")


@pytest.mark.parametrize("data", [GREEK, MIXED], ids=["greek", "mixed"])
def test_text_may_be_cut_into_fragments_at_every_byte(client, data):
    message = echo_text(data)
    for at in range(len(message) + 1):
        client.send(*fragments(TEXT, [message[:at], message[at:]]))
        client.answered(data)


@pytest.mark.parametrize("data", [GREEK, MIXED], ids=["greek", "mixed"])
def test_text_may_be_cut_into_packets_at_every_byte(client, data):
    whole = text(echo_text(data))
    for at in range(1, len(whole)):
        client.send(whole[:at])
        client.send(whole[at:])
        client.answered(data)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_text_may_come_in_fragments_of_a_few_bytes_with_pings_between(client, size):
    parts = fragments(TEXT, chopped(echo_text(MIXED), size))
    client.send(*(part + frame(PING, b"%d" % n) for n, part in enumerate(parts[:-1])), parts[-1])
    assert [client.pong() for _ in parts[:-1]] == [b"%d" % n for n in range(len(parts) - 1)]
    client.answered(MIXED)


@pytest.mark.parametrize("where", ["first", "inside", "last"])
@pytest.mark.parametrize("what", INVALID)
def test_text_that_is_not_utf8_is_failed(client, what, where):
    client.send(text(wrong(INVALID[what], where)))
    assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("what", INVALID)
def test_text_that_is_not_utf8_is_failed_when_each_byte_is_a_fragment(client, what):
    client.send(*fragments(TEXT, chopped(wrong(INVALID[what], "inside"), 1)))
    assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("what", ["continuation-80", "four-without-last", "overlong-nul-2", "surrogate-d800", "beyond-10ffff", "ff"])
def test_text_that_is_not_utf8_is_failed_wherever_it_is_cut(victim, what):
    sequence = INVALID[what]
    message = wrong(sequence, "inside")
    start = message.index(sequence)
    for at in range(start, start + len(sequence) + 2):
        with Frames(victim) as client:
            client.send(*fragments(TEXT, [message[:at], message[at:]]))
            assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("what", ["continuation-80", "two-without-last", "overlong-slash-2", "surrogate-dfff", "ff"])
def test_one_wrong_byte_is_found_at_every_place(victim, what):
    whole = echo_text(GREEK)
    for at in [*range(0, len(whole), 5), len(whole) - 1]:
        with Frames(victim) as client:
            client.send(text(whole[:at] + INVALID[what] + b"-" + whole[at:]))
            assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_text_that_ends_inside_a_character_is_failed(client, cut):
    client.send(text("🦀".encode()[:cut]))
    assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_text_whose_last_fragment_ends_inside_a_character_is_failed(client, cut):
    client.send(*fragments(TEXT, [b"a", "🦀".encode()[:cut], b""]))
    assert client.fails(NOT_UTF8) == []


def test_a_character_does_not_go_on_in_the_next_message(client):
    crab = "🦀".encode()
    client.send(text(crab[:2]), text(crab[2:]))
    assert client.fails(NOT_UTF8) == []


@pytest.mark.parametrize("what", ["surrogate-d800", "beyond-10ffff", "overlong-slash-3", "ff"])
def test_a_fragment_that_is_already_wrong_is_failed_before_the_message_ends(client, what):
    client.send(frame(TEXT, GREEK, fin=False))
    client.send(frame(CONTINUATION, INVALID[what], fin=False))
    assert client.fails(NOT_UTF8) == []


def test_what_came_before_wrong_text_is_answered_and_what_comes_after_is_not(victim, room):
    with Frames(victim) as client:
        client.send(text(echo_text("before")), text(b"\xff"), text({"type": "publish", "room": room, "kind": "k", "data": 1}))
        client.answered("before")
        assert client.fails(NOT_UTF8) == []
    assert victim.room(room) is None


@pytest.mark.parametrize("what", ["ff", "surrogate-d800", "two-without-last"])
def test_binary_need_not_be_utf8(client, what):
    client.send(frame(BINARY, INVALID[what]))
    client.error("binary_unsupported")
    client.send(*fragments(BINARY, chopped(INVALID[what], 1)))
    client.error("binary_unsupported")
    assert client.alive()


def test_a_ping_s_payload_need_not_be_utf8(client):
    client.send(frame(PING, b"\xff\xfe\xed\xa0\x80"))
    assert client.pong() == b"\xff\xfe\xed\xa0\x80"


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud83e"])
@pytest.mark.parametrize("field", ["data", "id", "type"])
def test_a_lone_surrogate_written_as_an_escape_never_comes_back_as_wrong_utf8(client, escape, field):
    # RFC 8259 leaves open what a reader makes of it. Every message that comes back is checked to be UTF-8 and JSON.
    fields = {"type": '"ping"', "id": '"s"', "data": '"d"'}
    client.send(text("{%s}" % ",".join(f'"{name}":{value}' for name, value in {**fields, field: f'"{escape}"'}.items())))
    assert client.message()["type"] in ("pong", "error")
    assert client.alive()
