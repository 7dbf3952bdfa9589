"""What a person with a browser is promised, in a headless Chromium: EventSource that comes back by itself, and a page that lives."""

import re

import pytest

from harness.load import assert_no_hole
from harness.process import eventually

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
