"""What a producer is promised when it publishes over HTTP: the forms it may use, what it is told, how events are numbered.

What is refused is in test_publish_refused.py.
"""

import json
import time

import pytest

from harness.api import instant, numbers, rfc3339, seqs

WHEN = 1714564800.25  # 2024-05-01T12:00:00.25Z


def test_one_event_is_answered_with_its_number_and_stands_in_the_history(daemon, room):
    answer = daemon.post_events(room, '{"kind":"k","data":{"a":1}}')
    assert answer.status_code == 202
    told = answer.json()
    assert told["count"] == 1 and told["ack"] == "logged" and told["first_seq"] == told["last_seq"]
    assert "duplicates" not in told
    [event] = daemon.history(room)["events"]
    assert event["seq"] == told["first_seq"]
    assert (event["type"], event["room"], event["kind"], event["data"]) == ("event", room, "k", {"a": 1})


def test_a_body_without_content_type_is_json(daemon, room):
    assert daemon.post_events(room, '{"kind":"k","data":1}', content_type=None).status_code == 202


def test_a_charset_in_the_content_type_does_no_harm(daemon, room):
    assert daemon.post_events(room, '{"kind":"k","data":"ä"}', content_type="application/json; charset=utf-8").status_code == 202
    assert daemon.history(room)["events"][0]["data"] == "ä"


def test_an_array_is_published_in_its_order(daemon, room):
    told = daemon.publish_numbers(room, range(10))
    assert told["count"] == 10 and told["last_seq"] == told["first_seq"] + 9
    events = daemon.history(room)["events"]
    assert numbers(events) == list(range(10))
    assert seqs(events) == list(range(told["first_seq"], told["last_seq"] + 1))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no-end", "newline", "crlf"])
def test_ndjson_is_published_line_by_line(daemon, room, end):
    lines = [json.dumps({"kind": "n", "data": {"n": n}}) for n in range(3)]
    answer = daemon.post_events(room, ("\r\n" if end == "\r\n" else "\n").join(lines) + end, content_type="application/x-ndjson")
    assert answer.status_code == 202 and answer.json()["count"] == 3, answer.text
    assert numbers(daemon.history(room)["events"]) == [0, 1, 2]


def cloud_event(**more):
    return {"specversion": "1.0", "id": "e-1", "source": "/rig/7", "type": "well.pressure", "data": {"bar": 310}, **more}


def test_a_structured_cloudevent_becomes_an_event(daemon, room):
    body = cloud_event(subject="pump-3", time=rfc3339(WHEN), priority="high", datacontenttype="application/json")
    answer = daemon.post_events(room, json.dumps(body), content_type="application/cloudevents+json")
    assert answer.status_code == 202, answer.text
    [event] = daemon.history(room)["events"]
    assert (event["kind"], event["key"], event["priority"], event["data"]) == ("well.pressure", "pump-3", "high", {"bar": 310})
    assert instant(event["timestamp"]) == WHEN


def test_a_batch_of_cloudevents_is_published_in_order(daemon, room):
    body = [cloud_event(id=f"e-{n}", data={"n": n}) for n in range(5)]
    answer = daemon.post_events(room, json.dumps(body), content_type="application/cloudevents-batch+json")
    assert answer.status_code == 202 and answer.json()["count"] == 5, answer.text
    assert numbers(daemon.history(room)["events"]) == list(range(5))


def test_a_cloudevent_sent_again_is_known_by_source_and_id(daemon, room):
    def send(**more):
        return daemon.post_events(room, json.dumps(cloud_event(**more)), content_type="application/cloudevents+json").json()

    first, again, other = send(), send(), send(source="/rig/8")
    assert again["duplicates"] == 1 and again["first_seq"] == first["first_seq"]
    assert other["first_seq"] == first["first_seq"] + 1
    assert len(daemon.history(room)["events"]) == 2


@pytest.mark.parametrize("ack", ["memory", "logged", "synced"])
def test_the_answer_says_which_acknowledgement_was_given(daemon, room, ack):
    assert daemon.publish(room, {"kind": "k", "data": 1}, ack=ack)["ack"] == ack
    assert len(daemon.history(room)["events"]) == 1


def test_numbers_begin_at_the_creation_time_in_microseconds(daemon, room):
    before = time.time()
    seq = daemon.publish(room, {"kind": "k", "data": 1})["first_seq"]
    assert (before - 1) * 1e6 <= seq <= (time.time() + 1) * 1e6
    assert seq < 2**53, "a JavaScript number holds it"


def test_numbers_go_up_by_one_over_bodies_of_every_size(daemon, room):
    last = daemon.publish(room, {"kind": "k", "data": 0})["last_seq"]
    for size in (1, 2, 1, 500, 3):
        told = daemon.publish_numbers(room, range(size))
        assert told["first_seq"] == last + 1 and told["last_seq"] == last + size
        last = told["last_seq"]


def test_rooms_are_numbered_each_for_itself(daemon, room):
    one = daemon.publish(room, {"kind": "k", "data": 1})["last_seq"]
    daemon.publish_numbers(f"{room}-other", range(10))
    assert daemon.publish(room, {"kind": "k", "data": 2})["last_seq"] == one + 1


@pytest.mark.parametrize("given", [rfc3339(WHEN), "2024-05-01T14:00:00.25+02:00", "2024-05-01T12:00:00.250000000Z", int(WHEN * 1000)],
                         ids=["utc", "offset", "nanoseconds", "milliseconds"])
def test_a_timestamp_may_be_rfc3339_text_or_integer_milliseconds(daemon, room, given):
    daemon.publish(room, {"kind": "k", "data": 1, "timestamp": given})
    assert instant(daemon.history(room)["events"][0]["timestamp"]) == WHEN


def test_an_event_without_timestamp_gets_the_time_of_arrival(daemon, room):
    before = time.time()
    daemon.publish(room, {"kind": "k", "data": 1})
    assert before - 1 <= instant(daemon.history(room)["events"][0]["timestamp"]) <= time.time() + 1


@pytest.mark.parametrize("priority", ["critical", "high", "normal", "low", None])
def test_priority_is_kept_and_normal_when_not_given(daemon, room, priority):
    daemon.publish(room, {"kind": "k", "data": 1, **({"priority": priority} if priority else {})})
    assert daemon.history(room)["events"][0]["priority"] == (priority or "normal")


def test_a_key_is_kept_and_absent_when_not_given(daemon, room):
    daemon.publish(room, [{"kind": "k", "data": 1, "key": "pump-3"}, {"kind": "k", "data": 2}])
    with_key, without = daemon.history(room)["events"]
    assert with_key["key"] == "pump-3"
    assert "key" not in without


@pytest.mark.parametrize("data", [None, True, 0, -1.5e300, 12345678901234567890, "", "\u2028 \u0000 \U0001f600 \" \\", [], {}, [[{"a": []}]]],
                         ids=lambda value: repr(value)[:12].encode("ascii", "replace").decode())
def test_data_may_be_any_json_and_comes_back_the_same(daemon, room, data):
    daemon.publish(room, {"kind": "k", "data": data})
    assert daemon.history(room)["events"][0]["data"] == data


@pytest.mark.parametrize("body", ['{"kind":"k","data":{"b":1.10,"a":1e2,"b2":0.1000}}', '{"kind":"k","data":{"z":12345678901234567890123,"y":1}}'],
                         ids=["decimals", "long-integer"])
def test_numbers_and_key_order_in_data_stay_as_they_were_written(daemon, room, body):
    assert daemon.post_events(room, body).status_code == 202
    written = json.loads(body)["data"]
    text = daemon.get(f"/v1/rooms/{room}/events").text
    assert body[body.index('"data":') + 7:-1] in text, f"{written} came back otherwise: {text}"


def test_an_id_seen_before_is_not_published_again_and_names_the_first_ones_number(daemon, room):
    first = daemon.publish(room, {"kind": "k", "data": 1, "id": "order-7"})
    again = daemon.publish(room, {"kind": "k", "data": 2, "id": "order-7"})
    assert again["duplicates"] == 1
    assert again["first_seq"] == again["last_seq"] == first["first_seq"]
    assert [event["data"] for event in daemon.history(room)["events"]] == [1]


def test_an_id_is_a_room_s_own(daemon, room):
    daemon.publish(room, {"kind": "k", "data": 1, "id": "order-7"})
    assert "duplicates" not in daemon.publish(f"{room}-b", {"kind": "k", "data": 1, "id": "order-7"})
    assert len(daemon.history(f"{room}-b")["events"]) == 1


def test_an_id_twice_in_one_body_is_published_once(daemon, room):
    told = daemon.publish(room, [{"kind": "k", "data": n, "id": "same"} for n in range(2)])
    assert told["duplicates"] == 1
    assert [event["data"] for event in daemon.history(room)["events"]] == [0]


def test_in_a_body_of_known_and_new_ids_only_the_new_are_published(daemon, room):
    daemon.publish(room, {"kind": "n", "data": {"n": 0}, "id": "0"})
    told = daemon.publish(room, [{"kind": "n", "data": {"n": n}, "id": str(n)} for n in range(3)])
    assert told["duplicates"] == 1
    assert numbers(daemon.history(room)["events"]) == [0, 1, 2]


@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_an_id_is_still_known_after_a_restart(daemon, room, how):
    first = daemon.publish(room, {"kind": "k", "data": 1, "id": "order-7"})
    if how == "restart":
        daemon.restart()
    else:
        daemon.kill9()
        daemon.start()
    again = daemon.publish(room, {"kind": "k", "data": 2, "id": "order-7"})
    assert again["duplicates"] == 1 and again["first_seq"] == first["first_seq"]
    assert len(daemon.history(room)["events"]) == 1


def test_an_id_is_forgotten_after_its_window(start_daemon, room):
    daemon = start_daemon(ROOMS__DEFAULT__IDEMPOTENCY_WINDOW="300ms")
    daemon.publish(room, {"kind": "k", "data": 1, "id": "order-7"})
    time.sleep(1)  # the promise is about time itself; nothing announces its end
    assert "duplicates" not in daemon.publish(room, {"kind": "k", "data": 2, "id": "order-7"})


@pytest.mark.parametrize("name", ["well:WELL-001", "a", "A_b-c.d:e/f@g", "x" * 200], ids=["usual", "short", "all-letters", "200"])
def test_every_allowed_room_name_works(daemon, name):
    daemon.publish(name, {"kind": "k", "data": 1})
    assert daemon.history(name)["room"] == name


def test_a_room_name_may_stand_in_the_path_as_it_is_or_percent_encoded(daemon):
    for path in ("/v1/rooms/a:b/c@d/events", "/v1/rooms/a%3Ab%2Fc%40d/events"):
        assert daemon.request("POST", path, json={"kind": "k", "data": 1}).status_code == 202, path
    assert len(daemon.history("a:b/c@d")["events"]) == 2


def test_an_event_of_nearly_the_limit_is_taken(daemon, room):
    daemon.publish(room, {"kind": "k", "data": "x" * (100 * 1024 - 300)})
    assert len(daemon.history(room)["events"][0]["data"]) == 100 * 1024 - 300
