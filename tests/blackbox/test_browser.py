"""What a person with a browser is promised, in a headless Chromium: EventSource that comes back by itself, and a page that lives."""

import re
import time

import pytest

from harness import pipelines
from harness.api import rfc3339
from harness.load import assert_no_hole
from harness.process import eventually
from harness.tokens import mint

LISTEN = """
window.seen = []; window.opened = 0;
window.source = new EventSource(%r);
source.onmessage = message => seen.push([message.lastEventId, JSON.parse(message.data).seq, JSON.parse(message.data).data.n]);
source.addEventListener('welcome', () => opened++);
"""


def listen(daemon, browser, room):
    """Opens a page on the daemon's origin and an EventSource in it; returns when it is joined."""
    browser.call("Page.setBypassCSP", enabled=True)  # the probe's page is only borrowed for its origin
    browser.open(f"{daemon.url}/livez")
    browser.run(LISTEN % f"/v1/stream?rooms={room}&token={daemon.key}" + "; 0")
    browser.wait("opened === 1", "the EventSource is welcomed")


def test_an_event_source_gets_events_by_onmessage_alone(daemon, room, browser):
    listen(daemon, browser, room)
    told = daemon.publish_numbers(room, range(5))
    browser.wait("seen.length >= 5", "five events")
    seqs = range(told["first_seq"], told["last_seq"] + 1)
    assert browser.run("seen") == [[str(seq), seq, n] for n, seq in enumerate(seqs)]


@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_an_event_source_comes_back_by_itself_after_a_restart_and_misses_nothing(daemon, room, browser, how):
    listen(daemon, browser, room)
    first = daemon.publish_numbers(room, range(10))["first_seq"]
    browser.wait("seen.length >= 10", "the first ten")
    if how == "restart":
        daemon.terminate()
    else:
        daemon.kill9()
    browser.wait("source.readyState === EventSource.CONNECTING", "the browser notices and keeps trying")
    daemon.start()
    told = daemon.publish_numbers(room, range(10, 20))
    browser.wait("seen.length >= 20", "the ten published meanwhile", timeout=40)
    daemon.publish_numbers(room, range(20, 25))
    browser.wait("seen.length >= 25", "and what comes live after them")
    seen = browser.run("seen")
    assert [n for _, _, n in seen] == list(range(25))
    assert [int(last_id) for last_id, _, _ in seen] == [seq for _, seq, _ in seen]
    if how == "restart":
        assert_no_hole([seq for _, seq, _ in seen], first, told["last_seq"] + 5)


def test_an_event_source_that_saw_only_the_welcome_misses_nothing_either(daemon, room, browser):
    daemon.publish_numbers(room, range(3))
    listen(daemon, browser, room)
    daemon.terminate()
    browser.wait("source.readyState === EventSource.CONNECTING", "the browser notices")
    daemon.start()
    daemon.publish_numbers(room, range(3, 6))
    browser.wait("seen.length >= 3", "what was published before it was back", timeout=40)
    assert [n for _, _, n in browser.run("seen")] == [3, 4, 5]


@pytest.fixture
def page(start_daemon, browser):
    """The daemon's own page, live; and the daemon, which measures its host."""
    daemon = start_daemon(SOURCES__HOST__ENABLED="true")
    browser.open(f"{daemon.url}/?token={daemon.key}")
    browser.wait("/live/i.test(document.querySelector('#state')?.textContent ?? '')", "#state says live")
    yield daemon
    browser.run("0")  # takes in what the console still has to say
    assert browser.errors == [], "red in the console"


def number(browser, selector):
    """Waits for a number in the element's text, and returns it."""
    def found():
        return re.search(r"-?\d+(?:[.,]\d+)?", browser.text(selector) or "")
    return float(eventually(found, f"a number in {selector}", timeout=15).group().replace(",", "."))


def test_the_page_shows_live_values_of_the_host(page, browser):
    assert 0 <= number(browser, "#cpu-value") <= 100
    assert number(browser, "#memory-value") > 0
    assert number(browser, "#load-value") >= 0


def test_the_page_lists_the_rooms(page, browser):
    browser.wait("!!document.querySelector('#rooms [data-room=\"host:cpu\"]')", "host:cpu in #rooms")


def test_the_page_follows_a_room(page, browser):
    browser.run("""(() => {
        const field = document.querySelector('#follow-room');
        field.value = 'demo:1';
        field.dispatchEvent(new Event('input', {bubbles: true}));
        document.querySelector('#follow-start').click();
    })()""")
    eventually(lambda: (page.room("demo:1") or page.publish("demo:1", {"kind": "k", "data": 0}) and {}).get("subscribers"),
               "the page reads demo:1", timeout=15)
    page.publish("demo:1", {"kind": "hello", "data": {"marker": "tide-4711"}})
    browser.wait("[...document.querySelectorAll('#follow-events .event')].some(e => e.textContent.includes('tide-4711'))",
                 "the published event in #follow-events")


def test_the_page_shows_what_is_published_as_text_and_never_as_markup(page, browser):
    browser.run("document.querySelector('#follow-room').value = 'demo:*'; document.querySelector('#follow-start').click()")
    attack = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"
    page.publish("demo:x", {"kind": "k", "data": 0})
    eventually(lambda: page.room("demo:x")["subscribers"], "the page reads demo:*", timeout=15)
    page.publish("demo:x", {"kind": attack, "data": {"marker": "tide-4712", "text": attack}, "key": attack})
    browser.wait("[...document.querySelectorAll('#follow-events .event')].some(e => e.textContent.includes('tide-4712'))",
                 "the event in #follow-events")
    assert browser.run("window.hit ?? null") is None
    assert browser.run("document.querySelectorAll('#follow-events img, #follow-events script').length") == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(page, browser, width):
    browser.size(width)
    browser.wait("!!document.querySelector('#rooms [data-room]')", "rows in #rooms")
    scroll_width, inner_width = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    assert scroll_width <= inner_width == width, "a phone without `viewport` in the page lays out wider, too"


def test_the_page_loads_nothing_from_elsewhere(page, browser):
    hosts = browser.run("performance.getEntriesByType('resource').map(entry => new URL(entry.name).host)")
    assert set(hosts) <= {page.address}, "the page loads from elsewhere"


def test_the_page_comes_back_after_a_restart(start_daemon, browser):
    daemon = start_daemon(SOURCES__HOST__ENABLED="true")
    browser.open(f"{daemon.url}/?token={daemon.key}")
    browser.wait("/live/i.test(document.querySelector('#state')?.textContent ?? '')", "#state says live")
    daemon.terminate()
    browser.wait("!/live/i.test(document.querySelector('#state').textContent)", "#state says that it is not live")
    daemon.start()
    browser.wait("/live/i.test(document.querySelector('#state').textContent)", "#state says live again", timeout=40)


def test_a_person_signs_in_with_a_password_and_the_page_lives_on_the_cookie(start_daemon, browser):
    daemon = start_daemon(AUTH__ADMIN_PASSWORD="a long password", SOURCES__HOST__ENABLED="true", SOURCES__HOST__INTERVAL="100ms",
                          AUTH__TOKEN_TTL="8s", AUTH__EXPIRY_WARNING="5s")
    browser.open(f"{daemon.url}/")
    browser.wait("document.getElementById('login') !== null", "it is asked to sign in")
    fill = "document.getElementById('username').value = 'admin'; document.getElementById('password').value = %r; document.querySelector('#login button').click()"
    browser.run(fill % "wrong")
    browser.wait("document.getElementById('refusal').textContent.includes('wrong')", "it is told that this was wrong")
    browser.run(fill % "a long password")
    browser.wait("document.getElementById('state')?.dataset.state === 'live'", "the page lives")
    assert browser.run("document.cookie") == "", "no script sees the session"
    # The session outlives its first token: the page gets a new one when it is told that the old one ends.
    browser.wait("performance.now() > 10000 && document.getElementById('state').dataset.state === 'live'", "it still lives after its first token's end", timeout=30)


WELLS = """
[pipeline]
from = "well:*"

[[step]]
op = "threshold"
field = "pressure"
by = "room"
name = "pressure"
above = 90
clear_above = 75
severity = "critical"
pass = true

[[output]]
room = "alarms:wells"
where = "kind == \\"alarm\\""

[[output]]
room = "latest"
key = "{room}"
where = "kind == \\"sample\\""
state = true
"""


STATE = '[pipeline]\nfrom = "in:*"\n[[output]]\nroom = "table:{kind}"\nkey = "{key}"\nstate = true\nstate_mode = "merge"\n'


@pytest.fixture
def start_page(start_daemon, browser):
    """Starts a daemon with pipelines, which work, and opens its page; for an admin if nothing else is said. Nothing may be red in the console."""
    def start(admin=True, **texts):
        daemon = start_daemon(started=False, **pipelines.SETTINGS)
        pipelines.write(daemon, **texts)
        pipelines.working(daemon.start())
        browser.open(f"{daemon.url}/?token={pipelines.ADMIN if admin else daemon.key}")
        browser.wait("document.querySelector('#state').dataset.state === 'live'", "#state says live")
        return daemon

    yield start
    browser.run("0")  # takes in what the console still has to say
    assert browser.errors == [], "red in the console"


def sample(daemon, room, pressure):
    daemon.publish(room, {"kind": "sample", "data": {"pressure": pressure}})


def texts(selector):
    """What the elements say, as an expression of the page."""
    return f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)"


def shown(browser, selector, *words):
    """Waits until one of these elements says all the words, in whatever room; returns what it says."""
    return browser.wait(f"{texts(selector)}.find(text => {list(words)!r}.every(word => text.includes(word)))", f"{words} in {selector}")


def test_the_page_shows_an_alarm_while_it_is_on_and_then_among_those_that_came_last(start_page, browser):
    daemon = start_page(wells=WELLS)
    shown(browser, "#alarms-none:not([hidden])", "No alarm is on.")
    sample(daemon, "well:1", 95)
    shown(browser, "#alarms-on .alarm.critical", "critical", "pressure", "well:1 in alarms:wells", "95", "above 90", "since", "for")
    assert not browser.run("document.querySelector('#alarms-none').checkVisibility()")
    sample(daemon, "well:1", 80)
    sample(daemon, "well:2", 91)
    shown(browser, "#alarms-on .alarm", "well:2")
    shown(browser, "#alarms-on .alarm", "well:1")
    sample(daemon, "well:1", 12)
    shown(browser, "#alarms-past .alarm", "pressure", "well:1 in alarms:wells", "cleared", "after")
    [left] = browser.run(texts("#alarms-on .alarm"))
    assert "well:2" in left


def test_a_critical_alarm_is_seen_at_a_glance_and_is_read_out(start_page, browser):
    daemon = start_page(wells=WELLS)
    assert browser.run("document.title") == "tidegate"
    sample(daemon, "well:9", 95)
    shown(browser, "#alarms-state:not([hidden])", "1 critical alarm")
    assert browser.run("document.title").endswith("(1) tidegate")
    browser.open(f"{daemon.url}/?token={pipelines.ADMIN}&again")
    shown(browser, "#alarms [role=status]", "Alarms: 1 on, 1 critical.")  # what was on before the page came is summed up; what comes now is news
    sample(daemon, "well:1", 95)
    shown(browser, "#alarms [role=alert]", "Critical alarm started", "pressure", "well:1")
    shown(browser, "#alarms-state:not([hidden])", "2 critical alarms")
    sample(daemon, "well:1", 12)
    shown(browser, "#alarms [role=status]", "Critical alarm over", "pressure", "well:1")
    sample(daemon, "well:9", 12)
    browser.wait("document.title === 'tidegate'", "the title says so")
    assert not browser.run("document.querySelector('#alarms-state').checkVisibility()")


def test_the_page_shows_alarms_of_any_room_and_those_that_were_on_before_it_came(start_page, browser):
    daemon = start_page()
    started = {"anomaly": "drift", "state": "started", "value": 7.25, "expected": 3, "severity": "warning", "since": rfc3339(time.time() - 7200), "field": "data.flow"}
    daemon.publish("pump:9", [{"kind": "anomaly", "key": "inlet", "data": started}, {"kind": "alarm", "priority": "critical", "data": {"text": "a hand-made one"}}])
    for _ in range(2):
        shown(browser, "#alarms-on .alarm.high", "warning", "drift", "inlet in pump:9", "flow 7.25, expected 3", "for 2 h 0 min")
        shown(browser, "#alarms-past .alarm.critical", "a hand-made one", "told")
        browser.open(f"{daemon.url}/?token={pipelines.ADMIN}&again")


def test_an_alarm_that_stands_in_a_rooms_state_is_shown_however_much_was_told_since(start_page, browser):
    state = '[[output]]\nroom = "alarms:wells"\nkey = "{key}"\nwhere = "kind == \\"alarm\\""\nstate = true\n'
    daemon = start_page(wells=WELLS + state)
    sample(daemon, "well:1", 95)
    daemon.publish("well:2", [{"kind": "sample", "data": {"pressure": pressure}} for _ in range(150) for pressure in (95, 12)])
    eventually(lambda: pipelines.listed(daemon)["wells"]["events_in"] == 301, "the pipeline has worked on them")
    browser.open(f"{daemon.url}/?token={pipelines.ADMIN}&again")
    shown(browser, "#alarms-on .alarm.critical", "pressure", "well:1 in alarms:wells", "95", "above 90")
    sample(daemon, "well:2", 97)
    shown(browser, "#alarms-on .alarm", "well:2")
    sample(daemon, "well:1", 12)
    browser.wait("document.querySelectorAll('#alarms-on .alarm').length === 1", "the one is over")
    shown(browser, "#alarms-past .alarm", "well:1", "cleared")


def test_a_state_that_is_none_of_alarms_hides_none(start_page, browser):
    daemon = start_page(state=STATE)
    daemon.publish("in:1", {"kind": "k", "key": "pump", "data": {"alarm": False, "state": 3}})
    daemon.publish("table:k", {"kind": "alarm", "data": {"alarm": "leak", "state": "started"}})
    pipelines.came(daemon, "table:k", 2)
    browser.open(f"{daemon.url}/?token={pipelines.ADMIN}&again")
    shown(browser, "#alarms-on .alarm", "leak", "table:k")


def test_an_alarm_that_ends_while_the_page_is_cut_off_is_over_when_it_is_back(start_page, browser):
    daemon = start_page(wells=WELLS)
    sample(daemon, "well:1", 95)
    shown(browser, "#alarms-on .alarm", "well:1")
    daemon.kill9()
    browser.wait("document.querySelector('#state').dataset.state !== 'live'", "#state says that it is not live")
    daemon.start()
    sample(daemon, "well:1", 12)
    browser.wait("document.querySelector('#alarms-on').children.length === 0", "it is over", timeout=40)
    shown(browser, "#alarms-past .alarm", "well:1", "cleared")
    browser.errors.clear()  # that it could not connect is red, and was so


def test_a_dead_letter_about_an_alarm_is_no_alarm(start_page, browser):
    daemon = start_page(wells=WELLS)
    daemon.publish("well:1", {"kind": "alarm", "data": {"text": "without a pressure"}})
    daemon.publish("well:2", {"kind": "alarm", "data": {"text": "another"}})
    pipelines.came(daemon, "dead-letter:wells", 2)
    sample(daemon, "well:1", 95)
    shown(browser, "#alarms-on .alarm", "well:1")
    rooms = browser.run("[...document.querySelectorAll('#alarms-past .alarm')].map(e => e.dataset.room)")
    assert sorted(rooms) == ["well:1", "well:2"]


def window(end, **data):
    return {"kind": "window", "key": "cpu", "data": {"count": 10, "start": rfc3339(end - 10), "end": rfc3339(end), **data}}


def drawn(selector):
    """How many points of a canvas are not empty, as an expression of the page."""
    return f"""(canvas => canvas && [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].filter((n, i) => i % 4 === 3 && n > 0).length)
               (document.querySelector({selector!r}))"""


def test_the_page_draws_a_rooms_windows(start_page, browser):
    daemon = start_page()
    assert not browser.run("document.querySelector('#windows').checkVisibility()"), "as long as there are none"
    now = time.time()
    daemon.publish("host-window:cpu", [window(now - 100 + 10 * n, usage_mean=20 + n, usage_max=60 + n, used_mean=None) for n in range(10)])
    card = "#windows [data-room=\"host-window:cpu\"]"
    shown(browser, card, "cpu", "29.0 % mean", "69.0 % max", "10 s each", "10 events")
    before = browser.wait(drawn(f"{card} canvas"), "something is drawn")
    label = browser.run(f"document.querySelector('{card} canvas').getAttribute('aria-label')")
    assert label == "host-window:cpu, the last 10 windows; now 29.0 % mean, 69.0 % max"
    daemon.publish("host-window:cpu", window(now, usage_mean=33.5, usage_min=0, usage_max=99))
    shown(browser, card, "33.5 % mean", "99.0 % max")
    browser.wait(f"{drawn(f'{card} canvas')} !== {before}", "the chart is another one")


def test_a_window_that_is_told_again_takes_its_own_place(start_page, browser):
    daemon, now = start_page(), time.time()
    daemon.publish("host-window:cpu", [window(now - 10, usage_mean=1), window(now, usage_mean=2, open=True), window(now, usage_mean=3, updated=True)])
    shown(browser, "#windows .card", "3.0 % mean")
    assert "the last 2 windows" in browser.run("document.querySelector('#windows canvas').getAttribute('aria-label')")


def table(browser):
    """What the page's table of a state says, by key."""
    return browser.run("Object.fromEntries([...document.querySelectorAll('#table tr[data-key]')].map(row => [row.dataset.key, JSON.parse(row.cells[1].textContent)]))")


def follow(browser, rooms):
    browser.run(f"document.querySelector('#follow-room').value = {rooms!r}; document.querySelector('#follow-start').click()")


def test_the_table_of_a_rooms_state_is_shown_and_follows(start_page, browser):
    daemon = start_page(state=STATE)

    def put(key, data):
        daemon.publish("in:1", {"kind": "k", "key": key, "data": data})

    put("a", {"x": 1, "deep": {"one": 1, "two": 2}})
    put("b", [1, None])
    pipelines.came(daemon, "table:k", 2)
    follow(browser, "table:k")
    eventually(lambda: table(browser) == {"a": {"x": 1, "deep": {"one": 1, "two": 2}}, "b": [1, None]}, "the table as it was")
    put("a", {"x": None, "deep": {"two": 3}})
    put("__proto__", {"constructor": 1})
    put("b", None)
    expected = {"a": {"deep": {"one": 1, "two": 3}}, "__proto__": {"constructor": 1}}
    eventually(lambda: table(browser) == expected, "the table after the changes")
    assert pipelines.state(daemon, "table:k")["data"] == expected
    assert browser.text("#table-count") == "2 keys"
    follow(browser, "in:1")
    browser.wait("!document.querySelector('#table-part').checkVisibility()", "a room without a state has no table")


def test_the_table_goes_on_after_a_restart(start_page, browser):
    daemon = start_page(state=STATE)
    follow(browser, "table:*")
    for n in range(3):
        daemon.publish("in:1", {"kind": "k", "key": f"key{n}", "data": n})
    eventually(lambda: table(browser) == {"key0": 0, "key1": 1, "key2": 2}, "the table")
    daemon.restart()
    daemon.publish("in:1", [{"kind": "k", "key": "key1", "data": {"new": True}}, {"kind": "other", "key": "key1", "data": 7}])
    browser.wait("document.querySelectorAll('#table tbody[data-room]').length === 2", "the tables of two rooms", timeout=40)
    eventually(lambda: pipelines.state(daemon, "table:k")["data"] == {"key0": 0, "key1": {"new": True}, "key2": 2}, "the daemon's own")
    shown(browser, "#table [data-room='table:k'] [data-key=key1]", '{"new":true}')
    shown(browser, "#table [data-room='table:other'] [data-key=key1]", "7")
    browser.errors.clear()  # that it could not connect is red, and was so


def test_what_is_in_a_state_an_alarm_or_a_window_is_shown_as_text_and_never_as_markup(start_page, browser):
    daemon = start_page(state=STATE)
    follow(browser, "table:k")
    attack = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"
    daemon.publish("in:1", {"kind": "k", "key": attack, "data": attack})
    daemon.publish("host-alarms", {"kind": "alarm", "key": attack, "data": dict.fromkeys(("alarm", "state", "reason", "severity", "field", "value", "text"), attack)})
    daemon.publish("host-window:x", {**window(time.time(), usage_mean=1), "key": attack})
    for place in ("#table", "#alarms-past", "#windows"):
        shown(browser, place, "<img src=x")
        assert browser.run(f"document.querySelectorAll('{place} img, {place} script').length") == 0
    assert browser.run("window.hit ?? null") is None


def test_an_admin_sees_how_pipelines_are(start_page, browser):
    daemon = start_page(wells=WELLS, state=STATE)
    shown(browser, "#pipelines [data-pipeline=state]", "state")
    for pressure in (10, 20, 95):
        sample(daemon, "well:1", pressure)
    daemon.publish("well:1", {"kind": "sample", "data": {}})
    eventually(lambda: pipelines.listed(daemon)["wells"]["events_in"] == 4, "the pipeline has worked on them")

    def row():
        names = browser.run("[...document.querySelectorAll('#pipelines thead th')].map(e => e.textContent)")
        cells = browser.run("[...document.querySelectorAll('#pipelines [data-pipeline=wells] :is(th, td)')].map(e => e.textContent)")
        return dict(zip(names, cells))

    seen = eventually(lambda: (found := row())["In"] == "4" and found, "the page asks again", timeout=20)
    # An alarm, three changes of a state of which one says nothing new, and a dead letter.
    told = pipelines.listed(daemon)["wells"]
    assert seen["Pipeline"] == "wells" and seen["Rejected"] == "1" and seen["Out"] == str(told["events_out"]) and seen["Keys"] == str(told["keys"])
    assert "pressure" in seen["Last trouble"]


def test_who_is_no_admin_is_shown_no_pipelines(start_page, browser):
    daemon = start_page(admin=False, wells=WELLS)
    sample(daemon, "well:1", 95)
    shown(browser, "#alarms-on .alarm", "well:1")  # meanwhile the page has asked who it is
    browser.wait("performance.getEntriesByType('resource').some(entry => entry.name.endsWith('/auth/me'))", "the page has asked who it is")
    assert not browser.run("document.querySelector('#pipelines-part').checkVisibility()")


def test_where_there_are_more_rooms_than_a_page_can_follow_it_watches_the_hosts_alarms_and_says_so(start_daemon, browser):
    daemon = start_daemon(LIMITS__CURSOR_BYTES="200B")
    for n in range(20):
        daemon.publish(f"crowd:{n}", {"kind": "k", "data": n})
    browser.open(f"{daemon.url}/?token={daemon.key}")
    browser.wait("document.querySelector('#state').dataset.state === 'live'", "#state says live")
    shown(browser, "#alarms-part", "Only host-alarms is watched")
    daemon.publish("host-alarms", {"kind": "alarm", "data": {"alarm": "hot", "state": "started", "severity": "critical"}})
    shown(browser, "#alarms-on .alarm.critical", "hot", "host-alarms")


def test_a_page_that_may_read_one_room_shows_the_alarms_in_it(start_daemon, browser):
    daemon = start_daemon(**pipelines.SETTINGS)
    token = mint(sub="ann", rooms=["well:1"])
    browser.open(f"{daemon.url}/?token={token}")
    browser.wait("document.querySelector('#state').dataset.state === 'live'", "#state says live")
    for room in ("well:2", "well:1"):
        daemon.publish(room, {"kind": "alarm", "data": {"alarm": "leak", "state": "started"}})
    shown(browser, "#alarms-on .alarm", "leak", "well:1")
    assert len(browser.run(texts("#alarms-on .alarm"))) == 1
