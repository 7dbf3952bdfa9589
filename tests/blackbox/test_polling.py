"""What a client is promised that falls back to polling: what it has is not sent again, and going from one transport to the next and
back it sees every event, and none twice.
"""

import gzip
import json
import subprocess

import pytest

from harness.api import cursor_map, numbers, seqs
from harness.load import Publisher, assert_no_hole
from harness.nginx import Nginx
from harness.pipelines import state, write
from harness.process import eventually
from harness.sse import Sse
from harness.tokens import SECRET, mint
from harness.ws import Ws

TABLE = '[pipeline]\nfrom = "in"\n[[output]]\nroom = "table"\nkey = "{key}"\nstate = true\n'
EVENTS = "/v1/rooms/{0}/events"


def ask(daemon, path, tag=None, status=200, **options):
    """A read by somebody who has what `tag` names; its tag."""
    headers = {**options.pop("headers", {}), **({} if tag is None else {"If-None-Match": tag})}
    answer = daemon.get(path, headers=headers, **options)
    assert answer.status_code == status, f"{path} with {tag}: {answer.status_code} {answer.text}"
    assert answer.headers["cache-control"] == "private, no-cache" and "accept-encoding" in answer.headers["vary"].lower()
    if status == 304:
        assert answer.content == b"" and "content-type" not in answer.headers
    return answer.headers["etag"]


def at_rest(daemon, room):
    """Waits until what is told of a room does not change by itself any more: its rate has come down."""
    eventually(lambda: daemon.room(room)["events_per_second"] == 0, "the room is at rest", timeout=60)


class TestWhatOneHas:
    """ETag and 304 on the REST reads (RFC 9110, sections 8.8.3 and 13.1.2)."""

    @pytest.mark.parametrize("query", ["", "?after=0&limit=2", "?tail=2", "?since=2020-01-01T00:00:00Z", "?filter=data.n>1", "?mode=latest&period=1s"])
    def test_a_history_that_has_not_changed_is_304_and_one_that_has_is_200(self, daemon, room, query):
        path = EVENTS.format(room) + query
        daemon.publish_numbers(room, range(3))
        tag = ask(daemon, path)
        assert ask(daemon, path, tag, 304) == tag
        daemon.publish_numbers(room, range(3, 5))
        after = ask(daemon, path, tag, 200)
        assert after != tag
        ask(daemon, path, after, 304)

    def test_what_is_told_of_rooms_is_304_until_it_changes(self, daemon, room):
        daemon.publish_numbers(room, range(3))
        at_rest(daemon, room)
        tags = {path: ask(daemon, path) for path in [f"/v1/rooms/{room}", "/v1/rooms", "/v1/rooms?pattern=test:*"]}
        for path, tag in tags.items():
            ask(daemon, path, tag, 304)
        daemon.publish_numbers(room, range(1))
        for path, tag in tags.items():
            assert ask(daemon, path, tag, 200) != tag

    def test_a_state_is_304_until_one_of_its_keys_changes(self, start_daemon):
        daemon = start_daemon(started=False)
        write(daemon, table=TABLE)
        daemon.start().publish("in", {"kind": "k", "key": "a", "data": {"x": 1}})
        eventually(lambda: (state(daemon, "table") or {}).get("data"), "the state is there")
        path = "/v1/rooms/table/state"
        tag = ask(daemon, path)
        ask(daemon, path, tag, 304)
        daemon.publish("in", {"kind": "k", "key": "b", "data": {"x": 2}})
        eventually(lambda: len(state(daemon, "table")["data"]) == 2, "the change is there")
        ask(daemon, path, ask(daemon, path, tag, 200), 304)

    def test_the_comparison_is_weak_and_takes_lists_and_a_star(self, daemon, room):
        path = EVENTS.format(room)
        daemon.publish_numbers(room, range(1))
        tag = ask(daemon, path)
        assert tag.startswith('"') and tag.endswith('"')
        for known in [tag, f"W/{tag}", f'"other", {tag}', f'"a,b",W/{tag} , "c"', "*"]:
            assert ask(daemon, path, known, 304) == tag
        for unknown in ['"other"', 'W/"other"', tag.strip('"'), f"w/{tag}", "", tag.upper() + "x"]:
            ask(daemon, path, unknown, 200)
        # Several lines are a list too.
        several = subprocess.run(["curl", "-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {daemon.key}",
                                  "-H", 'If-None-Match: "other"', "-H", f"If-None-Match: {tag}", daemon.url + path], capture_output=True, text=True, timeout=20)
        assert several.stdout == "304", several

    def test_head_is_answered_as_get_without_a_body(self, daemon, room):
        path = EVENTS.format(room)
        daemon.publish_numbers(room, range(3))
        tag = ask(daemon, path)
        head = daemon.request("HEAD", path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
        again = daemon.request("HEAD", path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)

    def test_packed_and_not_it_is_the_same_answer_with_the_same_tag(self, daemon, room):
        path = EVENTS.format(room)
        daemon.publish_numbers(room, range(100), pad=2000)  # more than is packed at once
        plain = daemon.get(path, headers={"Accept-Encoding": "identity"})
        packed = daemon.get(path, headers={"Accept-Encoding": "gzip"}, stream=True)
        assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
        raw = packed.raw.read(decode_content=False)
        assert gzip.decompress(raw) == plain.content and len(raw) < len(plain.content) / 4
        # Weak, because other bytes say the same.
        assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
        for encoding, known in [(encoding, known.headers["etag"]) for encoding in ["gzip", "identity"] for known in [plain, packed]]:
            answer = daemon.get(path, headers={"Accept-Encoding": encoding, "If-None-Match": known})
            assert (answer.status_code, answer.content) == (304, b"") and "content-encoding" not in answer.headers
        refused = daemon.get(path, headers={"Accept-Encoding": "gzip;q=0"})
        assert "content-encoding" not in refused.headers

    def test_what_is_small_is_not_packed(self, daemon, room):
        daemon.publish_numbers(room, range(1))
        assert "content-encoding" not in daemon.get(EVENTS.format(room), headers={"Accept-Encoding": "gzip"}).headers

    def test_curl_keeps_a_tag_in_a_file_and_is_spared_the_answer(self, daemon, room, tmp_path):
        """A foreign client of the whole: `--etag-save` and `--etag-compare`."""
        daemon.publish_numbers(room, range(200))
        tag, body = tmp_path / "tag", tmp_path / "body"

        def poll():
            command = ["curl", "-sS", "--compressed", "--noproxy", "*", "--etag-save", tag, "--etag-compare", tag, "-o", body, "-w", "%{http_code}",
                       "-H", f"Authorization: Bearer {daemon.key}", daemon.url + EVENTS.format(room) + "?tail=1000"]
            body.unlink(missing_ok=True)
            return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=20).stdout

        assert poll() == "200" and numbers(json.loads(body.read_bytes())["events"])[-1] == 199
        assert poll() == "304" and not body.exists()
        daemon.publish_numbers(room, range(200, 201))
        assert poll() == "200" and numbers(json.loads(body.read_bytes())["events"])[-1] == 200

    def test_behind_nginx_it_holds_too(self, daemon, room, tmp_path):
        nginx = Nginx(tmp_path, daemon).start()
        try:
            daemon.publish_numbers(room, range(100))
            packed = {"Accept-Encoding": "gzip"}
            first = nginx.get(EVENTS.format(room), headers=packed)
            again = nginx.get(EVENTS.format(room), headers={**packed, "If-None-Match": first.headers["etag"]})
            assert first.headers["content-encoding"] == "gzip"
            assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        finally:
            nginx.stop()

    def test_who_may_not_read_is_told_so_whatever_it_has(self, start_daemon, room):
        daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
        daemon.publish_numbers(room, range(1))
        stranger = mint(sub="o", roles=["viewer"], rooms=["other"])
        for known in ["*", ask(daemon, EVENTS.format(room))]:
            assert daemon.get(EVENTS.format(room), key=stranger, headers={"If-None-Match": known}).status_code == 403
            assert daemon.get(EVENTS.format(room), key=None, headers={"If-None-Match": known}).status_code == 401

    def test_a_tag_says_nothing_of_another_start_s_numbers(self, daemon, room):
        daemon.publish_numbers(room, range(3))
        path = EVENTS.format(room)
        tag = ask(daemon, path)
        daemon.restart()
        daemon.publish_numbers(room, range(3, 4))
        ask(daemon, path, tag, 200)

    def test_a_page_from_elsewhere_may_show_what_it_has_and_read_the_tag(self, start_daemon, room):
        origin = "http://dashboard.example"
        daemon = start_daemon(CORS__ORIGINS=origin)
        daemon.publish_numbers(room, range(1))
        preflight = daemon.request("OPTIONS", EVENTS.format(room), key=None, headers={
            "Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "if-none-match,authorization"})
        assert "if-none-match" in preflight.headers["access-control-allow-headers"].lower()
        answer = daemon.get(EVENTS.format(room), headers={"Origin": origin})
        assert "etag" in answer.headers["access-control-expose-headers"].lower()

    def test_the_stream_s_polls_are_kept_by_nobody(self, daemon, room):
        answer = daemon.get("/v1/stream", params={"rooms": room, "wait": "0s"}, headers={"Accept": "application/json"})
        assert answer.headers["cache-control"] == "no-store" and "etag" not in answer.headers


class Falling:
    """A client that takes whichever transport goes through, with one cursor, and notes what it sees."""

    def __init__(self, daemon, rooms):
        self.daemon, self.rooms, self.cursor, self.seen = daemon, rooms, "0", []

    def see(self, event):
        self.seen.append((event["room"], event["seq"]))

    def over_sse(self, count):
        """Reads so many events and breaks off, as a proxy that cuts streams does."""
        stream = Sse(self.daemon, self.rooms, last_id=self.cursor)
        try:
            for message in stream.take(count):
                self.see(message.data)
                self.cursor = message.id
        finally:
            stream.stop()

    def over_polling(self, count):
        """Asks again and again until so many have come."""
        taken = 0
        while taken < count:
            page = self.daemon.poll(self.rooms, after=self.cursor, wait="10s")
            assert page["events"] and page["notices"] == [], f"nothing came: {page}, {len(self.seen)} seen"
            for event in page["events"]:
                self.see(event)
            taken += len(page["events"])
            self.cursor = page["cursor"]

    def over_websocket(self, count):
        """Reads so many; where it stands it adds up itself, by what it was given at the beginning."""
        connection = Ws(self.daemon, self.rooms, last_event_id=self.cursor)
        try:
            begun = connection.welcome["cursor"]
            reached = cursor_map(begun) if "=" in begun else {}
            for event in connection.take(count):
                self.see(event)
                reached[event["room"]] = event["seq"]
            single = "," not in self.rooms and "*" not in self.rooms
            self.cursor = str(event["seq"]) if single else ",".join(f"{room}={seq}" for room, seq in sorted(reached.items()))
        finally:
            connection.close()


class TestFallingBack:
    """From one transport to the next and back with one cursor."""

    ORDERS = [("sse", "polling", "websocket"), ("websocket", "polling", "sse"), ("polling", "sse", "websocket", "sse")]

    @pytest.mark.parametrize("order", ORDERS, ids="-".join)
    @pytest.mark.parametrize("letters", ["a", "abc"], ids=["one-room", "several-rooms"])
    def test_every_event_is_seen_just_once_while_events_are_published(self, daemon, room, letters, order):
        names = [f"{room}:{letter}" for letter in letters]
        firsts = {name: daemon.publish_numbers(name, range(20))["first_seq"] for name in names}
        publishers = [Publisher(daemon, name, name=name, pause=0.003, seed=seed) for seed, name in enumerate(names)]
        client = Falling(daemon, ",".join(names))
        for _ in range(4):
            for way in order:
                getattr(client, f"over_{way}")(25)
        lasts = {publisher.room: max(publisher.stop().values()) for publisher in publishers}
        due = sum(lasts[name] - firsts[name] + 1 for name in names)
        while len(client.seen) < due:
            client.over_polling(1)
        for name in names:
            assert_no_hole([seq for of, seq in client.seen if of == name], firsts[name], lasts[name])

    def test_over_a_restart_between_two_transports_too(self, daemon, room):
        daemon.publish_numbers(room, range(30))
        client = Falling(daemon, room)
        client.over_sse(10)
        daemon.restart()
        client.over_polling(1)
        daemon.kill9()
        daemon.start()
        daemon.publish_numbers(room, range(30, 40))
        client.over_websocket(40 - len(client.seen))
        events = {event["seq"]: event["data"]["n"] for event in daemon.all_events(room)}
        assert [events[seq] for _, seq in client.seen] == list(range(40))

    def test_history_read_by_pages_goes_on_as_a_stream(self, daemon, room):
        daemon.publish_numbers(room, range(30))
        page = daemon.history(room, after=0, limit=10)
        assert numbers(page["events"]) == list(range(10))
        stream = Sse(daemon, room, last_id=page["cursor"])
        assert [message.data["data"]["n"] for message in stream.take(20)] == list(range(10, 30))
        stream.stop()
        assert seqs(daemon.history(room, after=stream.last_id)["events"]) == []
