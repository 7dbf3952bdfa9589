"""Which tokens open: the algorithms, the times, issuer and audience, and every way a token can be wrong or forged.

Tokens are made by PyJWT, forged ones byte by byte. Key sets (JWKS) are in test_jwks.py, what a token may do in test_rights.py.
"""

import base64
import json
import re
import socket
import time

import pytest

from harness import tokens
from harness.api import instant, problem
from harness.process import eventually
from harness.tokens import SECRET, Key, encoded, forge, hs256, mint, payload, signed_by

CALL = "/v1/rooms"


@pytest.fixture
def by_secret(start_daemon):
    """A daemon that takes HS256 tokens by SECRET."""
    return start_daemon(AUTH__JWT_SECRET=SECRET)


def by_pem(start_daemon, key, **settings):
    """A daemon that takes tokens by this public key, which it has as a PEM file."""
    daemon = start_daemon(started=False, **settings)
    path = key.write(daemon.directory)
    daemon.settings["AUTH__JWT_KEYS"] = f"{key.kid}={path}" if key.kid else path
    return daemon.start()


def opens(daemon, token):
    answer = daemon.get(CALL, key=token)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"


def shut(daemon, token):
    """A token that is refused like every wrong credential; the problem."""
    answer = daemon.get(CALL, key=token)
    found = problem(answer, 401, kind="unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer", answer.headers
    return found


def test_a_token_signed_by_the_secret_opens_and_says_who_it_is(by_secret):
    token = mint(sub="alice", roles=["viewer"])
    opens(by_secret, token)
    me = by_secret.me(token)
    assert (me["subject"], me["credential"], me["roles"]) == ("alice", "token", ["viewer"])
    assert abs(instant(me["expires_at"]) - tokens.parts(token)[1]["exp"]) < 1


def test_a_token_opens_every_transport(by_secret, ws, sse):
    token = mint()
    assert ws(by_secret, "x", key=token).alive()
    assert sse(by_secret, "x", key=token).welcome()
    assert by_secret.get("/v1/stream", key=token, params={"rooms": "x", "wait": "0s"}).status_code == 200
    for name in ("token", "access_token"):
        assert ws(by_secret, "x", key=None, **{name: token}).alive()
        assert sse(by_secret, "x", key=None, **{name: token}).welcome()


@pytest.mark.parametrize("algorithm", tokens.ALGORITHMS)
def test_a_token_by_a_public_key_in_a_pem_file_opens(start_daemon, algorithm):
    key = Key(algorithm)
    daemon = by_pem(start_daemon, key)
    assert daemon.me(key.mint(sub="bob"))["subject"] == "bob"
    shut(daemon, Key(algorithm, "another").mint(sub="bob"))


def test_secret_and_several_keys_hold_side_by_side(start_daemon):
    keys = [Key("RS256", kid="r"), Key("ES256", kid="e"), Key("EdDSA", kid="o")]
    daemon = start_daemon(started=False, AUTH__JWT_SECRET=SECRET)
    daemon.settings["AUTH__JWT_KEYS"] = ",".join(f"{key.kid}={key.write(daemon.directory, f'{key.kid}.pem')}" for key in keys)
    daemon.start()
    for token in (mint(), *(key.mint() for key in keys)):
        opens(daemon, token)
    opens(daemon, daemon.key)


def test_keys_without_a_kid_are_each_tried(start_daemon):
    daemon = start_daemon(started=False)
    one, two = Key("RS256", "one"), Key("RS256", "two")
    daemon.settings["AUTH__JWT_KEYS"] = f"{one.write(daemon.directory, '1.pem')},{two.write(daemon.directory, '2.pem')}"
    daemon.start()
    opens(daemon, one.mint())
    opens(daemon, two.mint())


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_other_hashes_by_the_same_secret_are_shut_out(by_secret, algorithm):
    shut(by_secret, mint(SECRET, algorithm))


def test_a_token_by_another_secret_is_shut_out(by_secret):
    shut(by_secret, mint(SECRET + "x"))
    shut(by_secret, mint(SECRET[:-1]))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["secret-file", "secret"])
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, "HS257", ["HS256"]], ids=str)
def test_a_token_without_a_real_algorithm_is_shut_out(start_daemon, secret, algorithm):
    daemon = start_daemon(AUTH__JWT_SECRET=secret)
    header = {"typ": "JWT", "alg": algorithm} if algorithm is not None else {"typ": "JWT"}
    for sign in (b"", b"x", hs256(""), hs256("none")):
        shut(daemon, forge(header, payload(roles=["admin"]), sign))


def test_no_secret_means_no_secret_that_could_be_guessed(daemon):
    for guess in ("", " ", "secret", "\0", "null", "None"):
        shut(daemon, forge({"alg": "HS256", "typ": "JWT"}, payload(roles=["admin"]), hs256(guess)))


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_hmac_secret(start_daemon, algorithm):
    key = Key(algorithm, kid="it")
    daemon = by_pem(start_daemon, key)
    guesses = [key.pem(), key.pem().strip(), key.der(), key.jwk().get("n", key.jwk().get("x")).encode(), json.dumps(key.jwk()).encode()]
    for guess in guesses:
        for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "it"}):
            shut(daemon, forge(header, payload(roles=["admin"]), hs256(guess)))


@pytest.mark.parametrize("key, other", [("RS256", "ES256"), ("RS256", "EdDSA"), ("ES256", "RS256"), ("ES256", "ES384"), ("ES384", "ES256"), ("EdDSA", "PS256")])
def test_a_token_of_another_kind_of_key_is_shut_out(start_daemon, key, other):
    mine, foreign = Key(key, kid="it"), Key(other, "foreign", kid="it")
    daemon = by_pem(start_daemon, mine)
    shut(daemon, foreign.mint())
    shut(daemon, forge({"alg": mine.algorithm, "kid": "it"}, payload(), signed_by(foreign)))
    shut(daemon, forge({"alg": foreign.algorithm, "kid": "it"}, payload(), signed_by(mine)))


def test_the_kid_of_another_key_is_shut_out(start_daemon):
    daemon = start_daemon(started=False)
    one, two = Key("ES256", "one", kid="one"), Key("ES256", "two", kid="two")
    daemon.settings["AUTH__JWT_KEYS"] = f"one={one.write(daemon.directory, '1.pem')},two={two.write(daemon.directory, '2.pem')}"
    daemon.start()
    opens(daemon, one.mint())
    for kid in ("two", "three", "One", "", "../one", "one\0", 1):
        shut(daemon, forge({"alg": "ES256", "kid": kid}, payload(), signed_by(one)))


def test_a_key_that_the_token_brings_along_is_not_taken(start_daemon, jwks_server):
    mine, foreign = Key("RS256"), Key("RS256", "foreign")
    server = jwks_server(foreign)
    daemon = by_pem(start_daemon, mine)
    for header in ({"jwk": foreign.jwk()}, {"jku": server.url}, {"x5u": server.url}, {"jku": server.url, "kid": "x"}):
        shut(daemon, forge({"alg": "RS256", **header}, payload(), signed_by(foreign)))
    assert server.requests == [], "a forger made the daemon call an address"


def test_an_extension_that_must_be_understood_and_is_not_shuts_the_token_out(by_secret):
    shut(by_secret, forge({"alg": "HS256", "crit": ["urn:example:x"], "urn:example:x": 1}, payload(), hs256(SECRET)))


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 63, b"\0" * 65, b"0\x06\x02\x01\x00\x02\x01\x00", b"\xff" * 64, b"\x01" + b"\0" * 63])
def test_a_signature_of_nothing_is_shut_out(start_daemon, signature):
    daemon = by_pem(start_daemon, Key("ES256"))
    shut(daemon, forge({"alg": "ES256"}, payload(), signature))


@pytest.mark.parametrize("exp, opened", [(-30, True), (-90, False), (+60, True)])
def test_leeway_is_given_to_a_token_that_has_just_expired(start_daemon, exp, opened):
    (opens if opened else shut)(start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__LEEWAY="60s"), mint(exp=int(time.time()) + exp))


@pytest.mark.parametrize("nbf, opened", [(+30, True), (+90, False), (-60, True), (0, True)])
def test_leeway_is_given_to_a_token_that_holds_in_a_moment(start_daemon, nbf, opened):
    (opens if opened else shut)(start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__LEEWAY="60s"), mint(nbf=int(time.time()) + nbf))


def test_by_default_the_leeway_is_half_a_minute(by_secret):
    opens(by_secret, mint(exp=int(time.time()) - 20))
    shut(by_secret, mint(exp=int(time.time()) - 32))
    opens(by_secret, mint(nbf=int(time.time()) + 20))
    shut(by_secret, mint(nbf=int(time.time()) + 45))


def test_without_leeway_a_token_ends_at_its_time(start_daemon):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__LEEWAY="0s")
    shut(daemon, mint(exp=int(time.time()) - 1))
    shut(daemon, mint(nbf=int(time.time()) + 5))
    token = mint(ttl=2)
    opens(daemon, token)
    eventually(lambda: daemon.get(CALL, key=token).status_code == 401, "the token ends", timeout=5)


def test_a_token_without_an_end_is_shut_out_unless_it_is_allowed(start_daemon):
    shut(start_daemon(AUTH__JWT_SECRET=SECRET), mint(exp=None))
    lenient = start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__REQUIRE_EXP="false")
    opens(lenient, mint(exp=None))
    assert lenient.me(mint(exp=None)).get("expires_at") is None
    shut(lenient, mint(exp=int(time.time()) - 60))


@pytest.mark.parametrize("claim, value", [("exp", -1), ("exp", -1e300), ("exp", 0), ("nbf", 2**62), ("nbf", 1e300),
                                          *((claim, value) for claim in ("exp", "nbf") for value in ("soon", "99999999999", [], {}, True))], ids=str)
def test_a_time_that_is_none_is_shut_out(by_secret, claim, value):
    shut(by_secret, forge({"alg": "HS256"}, payload(**{claim: value}), hs256(SECRET)))


@pytest.mark.parametrize("exp", [2**31, 2**53, 2**63, 2**64, 10**30, 1e300, 0.5], ids=str)
def test_a_far_or_broken_end_does_no_harm(by_secret, ws, exp):
    # A part of a second, soon: counted from here and not from when the tests were gathered.
    exp = int(time.time()) + 300 + exp if exp < 1 else exp
    token = forge({"alg": "HS256"}, payload(exp=exp), hs256(SECRET))
    status = by_secret.get(CALL, key=token).status_code
    assert status in (200, 401), status
    if status == 200:
        assert ws(by_secret, "x", key=token).alive()
    assert exp > 2**53 or status == 200, "a time that a token may well have"


@pytest.mark.parametrize("iss, opened", [("https://issuer.example", True), ("https://issuer.example/", False), ("x", False), (None, False),
                                         (["https://issuer.example"], False), ("", False)], ids=str)
def test_the_issuer_is_checked(start_daemon, iss, opened):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__ISSUER="https://issuer.example")
    (opens if opened else shut)(daemon, forge({"alg": "HS256"}, payload(iss=iss), hs256(SECRET)))


@pytest.mark.parametrize("aud, opened", [("tidegate", True), ("other", True), (["x", "tidegate"], True), (["x"], False), ("x", False), (None, False),
                                         ([], False), ("tide", False), ("", False)], ids=str)
def test_the_audience_is_checked(start_daemon, aud, opened):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, AUTH__AUDIENCE="tidegate,other")
    (opens if opened else shut)(daemon, mint(aud=aud))


def test_issuer_and_audience_are_not_checked_where_none_is_set(by_secret):
    opens(by_secret, mint(iss="anyone", aud=["anything"]))


def test_a_changed_claim_breaks_the_signature(by_secret):
    head, claims, signature = mint(sub="alice", roles=["viewer"]).split(".")
    for changed in (payload(sub="alice", roles=["admin"]), payload(sub="root"), payload(ttl=10**6)):
        shut(by_secret, f"{head}.{encoded(changed)}.{signature}")
    shut(by_secret, f"{encoded({'alg': 'HS256'})}.{claims}.{signature}")


def test_no_single_changed_letter_is_overlooked(by_secret):
    token = mint()
    for place in range(0, len(token) - 1, 7):  # the last letter has bits that mean nothing
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1:]
        shut(by_secret, changed)


def test_a_cut_token_is_shut_out(by_secret):
    token = mint()
    head, claims, signature = token.split(".")
    cut = [token[:length] for length in range(1, len(token), 11)] + [token[1:]]
    for wrong in [*cut, f"{head}.{claims}", f"{head}.{claims}.", f"{head}..{signature}", f".{claims}.{signature}", f"{token}.", f".{token}", "..",
                  ".", f"{token}.{signature}", f"{head}.{claims}.{signature}x", token.replace(".", ". "), f"{token}="]:
        shut(by_secret, wrong)


@pytest.mark.parametrize("claims", [b"", b"null", b"[]", b"1", b'"alice"', b"{", b'{"sub":"alice"', b'{"sub":"\xff\xfe","exp":99999999999}',
                                    b'{"sub":1,"exp":99999999999}', b'{"sub":["root"],"exp":99999999999}', b"[" * 3000])
def test_signed_claims_that_are_no_claims_are_shut_out(by_secret, claims):
    shut(by_secret, forge({"alg": "HS256"}, claims, hs256(SECRET)))


@pytest.mark.parametrize("header", [b"", b"null", b"[]", b"{", b'{"alg":"HS256"', b'{"alg":"\xff"}', b'{"alg":"HS256","kid":"\xff"}'])
def test_a_header_that_is_no_header_is_shut_out(by_secret, header):
    shut(by_secret, forge(header, payload(), hs256(SECRET)))


@pytest.mark.parametrize("claims", [{"roles": "admin"}, {"roles": {"admin": True}}, {"roles": [["admin"]]}, {"roles": ["admin", 1]},
                                    {"roles": []}, {"roles": ["Admin"]}, {"roles": [" admin"]}, {"role": ["admin"]}], ids=str)
def test_roles_of_another_shape_make_nobody_an_admin(by_secret, claims):
    answer = by_secret.get("/v1/connections", key=forge({"alg": "HS256"}, payload(**claims), hs256(SECRET)))
    problem(answer, 401, 403)


@pytest.mark.parametrize("claims", [{"rooms": "*"}, {"rooms": {"*": 1}}, {"rooms": [1]}, {"rooms": ["we*ll"]}, {"rooms": ["**"]}, {"rooms": [""]}], ids=str)
def test_rooms_of_another_shape_give_nothing(by_secret, claims):
    token = forge({"alg": "HS256"}, payload(roles=[], **claims), hs256(SECRET))
    problem(by_secret.get("/v1/rooms/well:1/events", key=token), 401, 403)


@pytest.mark.parametrize("size", [9_000, 60_000, 1_000_000])
def test_a_huge_token_does_no_harm(by_secret, size):
    token = mint(pad="x" * size)
    for request in ({"key": token}, {"key": None, "params": {"token": token}}):
        try:
            assert by_secret.get(CALL, **request).status_code in (400, 401, 413, 414, 431)
        except OSError:
            pass  # cut off while it was still sent
    opens(by_secret, mint(pad="x" * 4000))


@pytest.mark.parametrize("value", [b"\xff\xfe\xfd", b"\xc3\x28.\xff.\x80", "ü.ü.ü".encode(), b"a\tb.c.d", b"\x80" * 1000])
def test_bytes_that_are_no_text_are_shut_out(by_secret, value):
    host, port = by_secret.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v1/rooms HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer " + value + b"\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.split()[1] in (b"400", b"401"), answer[:200]
    assert by_secret.get("/readyz", key=None).status_code == 200


def test_a_wrong_header_is_not_made_good_by_the_query(by_secret):
    good, expired = mint(), mint(ttl=-100)
    for name in ("token", "access_token"):
        assert by_secret.get(CALL, key=good, params={name: expired}).status_code == 200
        problem(by_secret.get(CALL, key=expired, params={name: good}), 401, kind="unauthorized")
        problem(by_secret.get(CALL, key=None, headers={"Authorization": "Basic eDp5"}, params={name: good}), 401, kind="unauthorized")


def test_every_wrong_credential_is_refused_in_the_same_words(by_secret):
    wrong = ["nonsense", mint(ttl=-100), mint(SECRET + "x"), mint(exp=None), mint(nbf=int(time.time()) + 900), "a.b.c", by_secret.key + "x",
             forge({"alg": "none"}, payload()), mint(SECRET, "HS512")]
    assert len({json.dumps(shut(by_secret, token), sort_keys=True) for token in wrong}) == 1


@pytest.mark.parametrize("content", ["private", "garbage", "empty", "missing", "cut", "directory"])
def test_a_key_file_without_a_public_key_is_a_clear_fault_at_start(start_daemon, content):
    daemon, key = start_daemon(started=False), Key("RS256")
    path = daemon.directory / "key.pem"
    made = {"private": key.private_pem(), "garbage": b"my-garbage-4711", "empty": b"", "cut": key.pem()[:200]}
    path.mkdir() if content == "directory" else path.write_bytes(made[content]) if content in made else None
    result = daemon.run("serve", AUTH__JWT_KEYS=path)
    assert result.code in (1, 2) and str(path) in result.stderr and "panicked" not in result.stderr, result
    said = result.stdout + result.stderr
    assert "my-garbage-4711" not in said and key.private_pem().splitlines()[3].decode() not in said, "what is in the file is shown"
    assert content != "private" or "private" in result.stderr.lower(), f"it does not say what is wrong\n{result}"


@pytest.mark.parametrize("level", ["debug", "trace"])
def test_secrets_and_tokens_never_stand_in_the_log_or_in_an_answer(start_daemon, ws, sse, level):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LOGGING__LEVEL=level)
    good, bad = mint(sub="alice"), mint(SECRET + "x", sub="mallory")
    answers = [daemon.get(path, **how) for path in (CALL, "/no/such/page", "/v1/rooms?nonsense=1") for token in (good, bad)
               for how in ({"key": token}, {"key": None, "params": {"token": token}})]
    client = ws(daemon, "x", key=good)
    client.send({"type": "refresh", "token": bad})
    answers_ws = [client.until("error")]
    client.ask({"type": "refresh", "token": good}, "refreshed")
    sse(daemon, "x", key=None, token=good).welcome()
    daemon.terminate()
    said = daemon.log_text() + daemon.output_text() + json.dumps(answers_ws) + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    said = re.sub(r"\s", "", said)
    for secret in (SECRET, base64.b64encode(SECRET.encode()).decode(), *good.split(".")[1:], *bad.split(".")[1:]):
        assert secret not in said and secret.encode().hex() not in said, "a secret was said"


def test_a_short_secret_is_not_shown(start_daemon):
    result = start_daemon(started=False).run("check", AUTH__JWT_SECRET="short-4711")
    assert "short-4711" not in result.stdout + result.stderr, result
    assert result.code in (0, 2) and (result.code == 0 or "auth.jwt_secret" in result.stderr), result
