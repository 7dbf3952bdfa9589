"""/openapi.json says what the daemon does: the document is sound and whole, a real Schemathesis finds no answer that is not as
described, what it gives as examples is taken, and /docs/ shows it without help from elsewhere.
"""

import json
import re
import threading
import uuid

import jsonschema
import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from harness.api import PROBLEM, problem
from harness.openapi import METHODS, Description, routes, schemathesis
from harness.process import eventually
from harness.tokens import SECRET, mint, user

SCHEMATHESIS_SECONDS = 75
# Everybody may see these, and they describe nothing but themselves.
PAGES = {("GET", "/"), ("GET", "/docs"), ("GET", "/docs/"), ("GET", "/docs/{*file}")}
FILL = {"{room}": "well:1", "{id}": "1"}


@pytest.fixture
def described(start_daemon):
    """Starts a daemon (its settings may come from what it says of itself) with an admin who signs in as the description's
    example does. The daemon, its description, and the admin's name and password."""
    def start(**settings):
        asked = start_daemon()
        description = Description(asked.get("/openapi.json", key=None).json())
        asked.terminate()
        examples = list(description.examples(description.document["paths"]["/api/v1/auth/login"]["post"]))
        assert examples, "the description has no example of a login"
        [(_, login)] = examples
        admin = user(login["username"], login["password"], roles="admin")
        return start_daemon(AUTH__JWT_SECRET=SECRET, **admin, **settings), description, login
    return start


@pytest.fixture
def description(daemon):
    """What a daemon says of itself."""
    answer = daemon.get("/openapi.json", key=None)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    return Description(answer.json())


def fill(path):
    """A path with names in place of its parameters."""
    for parameter, value in FILL.items():
        path = path.replace(parameter, value)
    return path


# The document.

def test_the_document_is_openapi_3_1_of_this_daemon(daemon, description):
    errors = list(OpenAPIV31SpecValidator(description.document).iter_errors())
    assert not errors, "\n".join(f"{error.json_path}: {error.message}" for error in errors)
    assert description.document["openapi"].startswith("3.1.")
    assert description.document["info"]["version"] == daemon.get("/api/health", key=None).json()["version"]


def test_every_route_is_described_and_nothing_else(description):
    told = {(method, path) for method, path, _ in description.operations()}
    assert told == routes() - PAGES


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(description):
    operations = [operation for _, _, operation in description.operations()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names), names
    assert all(operation["summary"] and operation["tags"] for operation in operations)


def test_nothing_is_described_that_is_not_used(description):
    text = json.dumps(description.document)
    for name in description.document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"


def test_every_error_answer_is_a_problem(description):
    for method, path, operation in description.operations():
        for status, answer in operation["responses"].items():
            if status[0] in "45":
                content = description.find(answer).get("content", {})
                assert list(content) == [PROBLEM], f"{method} {path} {status}: {content}"
                assert content[PROBLEM]["schema"] == {"$ref": "#/components/schemas/Problem"}, f"{method} {path} {status}"


def test_an_answer_says_which_headers_tell_what_to_do_next(description):
    headers = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After", "503": "Retry-After"}
    for method, path, operation in description.operations():
        for status, answer in operation["responses"].items():
            if status in headers:
                assert headers[status] in description.find(answer).get("headers", {}), f"{method} {path} {status}"


def test_every_operation_says_at_least_the_errors_that_its_kind_has(description):
    for method, path, operation in description.operations():
        expected = set() if description.is_open(operation) else {"401"}
        expected |= {"400"} if operation.get("parameters") else set()
        expected |= {"400", "408", "413", "422"} if "requestBody" in operation else set()
        expected |= {"404"} if "{" in path and method != "POST" else set()
        missing = expected - set(operation["responses"])
        assert not missing, f"{method} {path}: {missing}"


# Errors that are provoked.

BODY = {"headers": {"Content-Type": "application/json"}}
PROVOKED = {
    "no credential": {"key": None},
    "a credential that may do nothing": {"claims": {"roles": [], "rooms": [], "publish": []}},
    "a credential that may read and publish": {"claims": {"roles": ["operator"]}},
    "a parameter that there is not": {"params": {"no-such-parameter": "1"}},
    "no body": {},
    "a body that is no JSON": {"data": b"{", **BODY},
    "a body with a field that there is not": {"data": b'{"no-such-field":1}', **BODY},
    "a body that is too large": {"data": b'"' + b"x" * 100_000 + b'"', **BODY},
    "a body of another type": {"data": b"<a/>", "headers": {"Content-Type": "text/xml"}},
    "a body that is packed in another way": {"data": b"{}", "headers": {"Content-Type": "application/json", "Content-Encoding": "br"}},
    "a handshake of another version": {"headers": {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "12"}},
}


@pytest.mark.parametrize("cause", PROVOKED)
def test_an_error_that_can_be_provoked_is_described(start_daemon, description, cause):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__BODY_BYTES="1KiB", LIMITS__POLL_WAIT_MAX="100ms")
    differ = []
    for method, path, operation in description.operations():
        parameters = {"rooms": "well:1"} if path == "/v1/stream" else {}
        options = dict(PROVOKED[cause])
        # A token of its own for each call: one of the calls ends it.
        options.setdefault("key", mint(jti=uuid.uuid4().hex, **options.pop("claims", {"roles": ["admin"]})))
        options["params"] = {**parameters, **options.get("params", {})}
        # Nobody reads the body of a GET to its end, and with it ends the connection.
        options["headers"] = {"Connection": "close", **options.get("headers", {})}
        answer = daemon.request(method, fill(path), **options)
        assert answer.status_code != 401 or not options["key"], f"{method} {path}: the credential is taken for none"
        told = operation["responses"].get(str(answer.status_code))
        if told is None:
            differ.append(f"{method} {path}: {answer.status_code} is not described; {answer.text}")
        elif answer.status_code >= 400:
            [content] = description.find(told)["content"].items()
            assert answer.headers["content-type"] == content[0], f"{method} {path}: {answer.headers}"
            jsonschema.validate(answer.json(), description.schema(content[1]["schema"]))
    assert not differ, "\n".join(differ)


def test_a_method_that_a_resource_does_not_have_is_refused_with_those_it_has(daemon, description):
    differ = []
    for path, item in description.document["paths"].items():
        has = {method.upper() for method in item} & {method.upper() for method in METHODS}
        has |= {"HEAD"} if "GET" in has else set()
        for method in {"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"} - has:
            answer = daemon.request(method, fill(path))
            allowed = {name.strip() for name in answer.headers.get("allow", "").split(",")} - {"OPTIONS"}
            allowed |= {"HEAD"} if "GET" in allowed else set()  # whoever answers GET answers HEAD
            if answer.status_code != 405 or allowed != has:
                differ.append(f"{method} {path}: {answer.status_code}, Allow: {answer.headers.get('allow')}, expected {sorted(has)}")
    assert not differ, "\n".join(differ)


def test_every_content_type_that_a_publish_may_have_is_described(daemon, description):
    refusal = problem(daemon.post_events("well:1", "<a/>", content_type="text/xml"), 415)
    taken = set(re.findall(r"application/[a-z+-]+", refusal["detail"]))
    assert taken and taken == set(description.document["paths"]["/v1/rooms/{room}/events"]["post"]["requestBody"]["content"])


# What it does.

def follow(daemon, over):
    """Keeps a stream open, and opens the next one when it is ended."""
    while not over.is_set():
        try:
            with requests.get(f"{daemon.url}/v1/stream?rooms=well:*", headers={"Authorization": f"Bearer {daemon.key}",
                              "Accept": "text/event-stream"}, stream=True, timeout=10) as answer:
                for _ in answer.iter_content(None):
                    pass
        except requests.RequestException:
            over.wait(0.1)


@pytest.fixture
def lived_in(described, tmp_path_factory):
    """A daemon in which there is something to be read, streams and a room's state among it."""
    pipelines = tmp_path_factory.mktemp("pipelines")
    (pipelines / "state.toml").write_text('[pipeline]\nfrom = "well:*"\n[[output]]\nroom = "wells"\nkey = "{room}"\nstate = true\n')
    daemon, description, login = described(LIMITS__POLL_WAIT_MAX="100ms", LIMITS__PER_IP_LOGINS_PER_MINUTE=0, PIPELINES__DIR=pipelines)
    for room in ("well:1", "well:2", "tank:a/b"):
        daemon.publish(room, [{"kind": "k", "data": {"n": n}, "key": "x", "priority": "high"} for n in range(5)])
    over = threading.Event()
    for _ in range(3):
        threading.Thread(target=follow, args=(daemon, over), daemon=True).start()
    eventually(lambda: daemon.get("/api/health").json()["connections"] == 3, "three streams are open")
    eventually(lambda: daemon.get("/v1/rooms/wells/state").status_code == 200, "there is a state")
    yield daemon, description, login
    over.set()


def test_no_request_that_schemathesis_makes_is_answered_otherwise_than_described(lived_in, tmp_path):
    daemon, description, login = lived_in
    text, report = schemathesis(daemon, description.strict(), login, tmp_path, SCHEMATHESIS_SECONDS)
    assert report["exit_code"] == 0 and report["complete"], text
    operations = {f"{method} {path}" for method, path, _ in description.operations()}
    accepted = {name: sum(phase["accepted"] for phase in phases.values()) for name, phases in report["valid_rates"].items()}
    never = {name for name in operations if not accepted.get(name)}
    assert not never, f"operations that never succeeded, so that nothing is known of them: {never}\n{text}"


def test_every_body_given_as_an_example_is_taken(described):
    daemon, description, _ = described()
    for method, path, operation in description.operations():
        if "requestBody" not in operation:
            continue
        examples = list(description.examples(operation))
        assert {kind for kind, _ in examples} == set(operation["requestBody"]["content"]), f"{method} {path} lacks examples"
        for kind, example in examples:
            body = example if isinstance(example, str) else json.dumps(example)
            answer = daemon.request(method, fill(path), key=mint(sub="root", roles=["admin"]), data=body.encode(),
                                    headers={"Content-Type": kind})
            assert 200 <= answer.status_code < 300, f"{method} {path} {kind} {body}: {answer.status_code} {answer.text}"


# The page.

# On a host that is not its author's own, as it takes 127.0.0.1 to be, Swagger UI shows what a validator elsewhere says of the document.
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
def test_the_page_shows_every_operation_and_asks_nobody_else(start_daemon, browser, listen):
    daemon = start_daemon(SERVER__LISTEN=listen)
    description = Description(daemon.get("/openapi.json", key=None).json())
    browser.open(f"{daemon.url}/docs/")
    count = len(list(description.operations()))
    browser.wait(f"document.querySelectorAll('.opblock').length === {count}", "every operation is shown")
    assert browser.text(".info .title").startswith("tidegate")
    asked = browser.run("performance.getEntriesByType('resource').map(entry => new URL(entry.name).host)")
    assert set(asked) == {daemon.address}, "the page loads from elsewhere"
    foreign = "from => !from.startsWith(location.origin) && !from.startsWith('data:')"
    assert browser.run(f"[...document.images].map(image => image.src).filter({foreign})") == [], "images from elsewhere"
    assert browser.errors == [], "red in the console"


def test_a_call_tried_on_the_page_is_answered(daemon, browser):
    browser.open(f"{daemon.url}/docs/")
    browser.wait("!!document.querySelector('#operations-health-livez button')", "the operation livez")
    browser.run("document.querySelector('#operations-health-livez button').click()")
    browser.wait("!!document.querySelector('#operations-health-livez .try-out button')", "its button")
    browser.run("document.querySelector('#operations-health-livez .try-out button').click()")
    browser.wait("!!document.querySelector('#operations-health-livez .execute')", "its other button")
    browser.run("document.querySelector('#operations-health-livez .execute').click()")
    browser.wait("document.querySelector('#operations-health-livez .live-responses-table')?.textContent.includes('alive')", "the answer")
    browser.run("0")  # takes in what the console still has to say
    assert browser.errors == [], "red in the console"


def test_an_address_without_its_slash_leads_to_the_page(daemon):
    answer = daemon.get("/docs", key=None)
    assert answer.status_code in (301, 308) and answer.headers["location"] == "/docs/"


def test_the_page_has_only_its_own_files(daemon):
    problem(daemon.get("/docs/no-such-file.js", key=None), 404)
