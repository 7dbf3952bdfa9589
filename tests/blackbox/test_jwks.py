"""Keys of an issuer that come as a JWKS, from a file or from an address: every kind of key, changes while the daemon runs, an
address that is slow, away, or says nonsense, and callers who make up key ids.
"""

import json
import os
import time

import pytest

from harness import tokens
from harness.api import problem
from harness.process import eventually
from harness.tokens import Key, jwks, mint

CALL = "/v1/rooms"
ONE, TWO, THREE = (Key("ES256", name, kid=name) for name in ("one", "two", "three"))


def status(daemon, token):
    return daemon.get(CALL, key=token).status_code


def soon(daemon, token, expected, timeout=6):
    """A token is answered so within seconds."""
    eventually(lambda: status(daemon, token) == expected, f"the token is answered {expected}", timeout=timeout, every=0.1)


def by_file(start_daemon, *keys):
    """A daemon with a JWKS file, and that file."""
    daemon = start_daemon(started=False)
    path = daemon.directory / "jwks.json"
    path.write_text(json.dumps(jwks(*keys)))
    daemon.settings["AUTH__JWKS_FILE"] = path
    return daemon.start(), path


def by_url(start_daemon, server, **settings):
    return start_daemon(AUTH__JWKS_URL=server.url, **settings)


@pytest.mark.parametrize("source", ["file", "url"])
@pytest.mark.parametrize("algorithm", tokens.ALGORITHMS)
def test_every_kind_of_key_opens(start_daemon, jwks_server, source, algorithm):
    key, other = Key(algorithm, kid="it"), Key(algorithm, "other", kid="it")
    keys = [Key("RS256", "beside", kid="beside"), key]
    daemon = by_file(start_daemon, *keys)[0] if source == "file" else by_url(start_daemon, jwks_server(*keys))
    soon(daemon, key.mint(sub="bob"), 200)
    assert daemon.me(key.mint(sub="bob"))["subject"] == "bob"
    problem(daemon.get(CALL, key=other.mint()), 401, kind="unauthorized")


@pytest.mark.parametrize("algorithm, other", [("RS256", "RS512"), ("RS256", "PS256"), ("PS384", "RS384")])
def test_a_key_that_says_its_algorithm_is_good_for_no_other(start_daemon, algorithm, other):
    key = Key(algorithm, kid="it")
    daemon, _ = by_file(start_daemon, key)
    assert status(daemon, key.mint()) == 200
    assert status(daemon, mint(key.private, other, {"kid": "it"})) == 401


def test_a_key_for_encryption_signs_nothing(start_daemon):
    daemon, _ = by_file(start_daemon, ONE.jwk(use="enc"), TWO)
    assert status(daemon, TWO.mint()) == 200
    assert status(daemon, ONE.mint()) == 401


def test_keys_of_an_unknown_kind_are_passed_over(start_daemon):
    strange = [{"kty": "XYZ", "kid": "x"}, {"kty": "EC", "crv": "P-999", "kid": "y", "x": "AA", "y": "AA"},
               {"kty": "OKP", "crv": "X25519", "kid": "z", "x": "AA"}]
    daemon, _ = by_file(start_daemon, *strange, ONE)
    assert status(daemon, ONE.mint()) == 200


def test_a_changed_file_is_taken(start_daemon):
    daemon, path = by_file(start_daemon, ONE)
    assert (status(daemon, ONE.mint()), status(daemon, TWO.mint())) == (200, 401)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(jwks(TWO)))
    os.replace(new, path)
    soon(daemon, TWO.mint(), 200)
    assert status(daemon, ONE.mint()) == 401
    path.write_text(json.dumps(jwks(ONE, TWO)))  # in its place this time
    soon(daemon, ONE.mint(), 200)


@pytest.mark.parametrize("content", ["{", "my-garbage-4711", "", "[]", None], ids=["cut", "garbage", "empty", "array", "gone"])
def test_a_file_that_is_broken_while_it_runs_takes_no_key_away(start_daemon, content):
    daemon, path = by_file(start_daemon, ONE)
    path.write_text(content) if content is not None else path.unlink()
    eventually(lambda: str(path) in daemon.log_text(), "the log names the file", timeout=8)
    assert status(daemon, ONE.mint()) == 200
    path.write_text(json.dumps(jwks(TWO)))
    soon(daemon, TWO.mint(), 200)
    assert "my-garbage-4711" not in daemon.log_text()


@pytest.mark.parametrize("content", ["{", "my-garbage-4711", ""])
def test_a_file_that_is_broken_at_start_is_a_clear_fault(start_daemon, content):
    daemon = start_daemon(started=False)
    path = daemon.directory / "jwks.json"
    path.write_text(content)
    result = daemon.run("serve", AUTH__JWKS_FILE=path)
    assert result.code in (1, 2) and str(path) in result.stderr and "panicked" not in result.stderr, result


def test_a_new_key_of_the_issuer_opens_within_seconds(start_daemon, jwks_server):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server)
    soon(daemon, ONE.mint(), 200)
    server.rotate(ONE, TWO)
    soon(daemon, TWO.mint(), 200, timeout=10)
    assert status(daemon, ONE.mint()) == 200


def test_a_key_that_the_issuer_took_away_is_shut_out_at_the_next_refresh(start_daemon, jwks_server):
    server = jwks_server(ONE, TWO)
    daemon = by_url(start_daemon, server, AUTH__JWKS_REFRESH="5s")
    soon(daemon, ONE.mint(), 200)
    server.rotate(TWO)
    soon(daemon, ONE.mint(), 401, timeout=15)
    assert status(daemon, TWO.mint()) == 200


def test_made_up_key_ids_do_not_make_the_daemon_hammer_the_issuer(start_daemon, jwks_server):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server)
    soon(daemon, ONE.mint(), 200)
    before, start = len(server.requests), time.monotonic()
    made_up = [Key("ES256", "foreign", kid=f"made-up-{n}").mint() for n in range(300)]
    assert {status(daemon, token) for token in made_up} == {401}
    assert len(server.requests) - before <= 2 + (time.monotonic() - start) / 5
    gaps = [later - earlier for earlier, later in zip(server.requests[1:], server.requests[2:])]
    assert all(gap > 4.5 for gap in gaps), f"asked again too soon: {gaps}"


def test_forged_tokens_with_a_known_key_id_do_not_make_it_ask_at_all(start_daemon, jwks_server):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server)
    soon(daemon, ONE.mint(), 200)
    before = len(server.requests)
    for _ in range(50):
        assert status(daemon, Key("ES256", "foreign", kid="one").mint()) == 401
    assert len(server.requests) == before


def test_an_issuer_that_is_away_at_start_does_not_hold_the_start_up(start_daemon, jwks_server):
    server = jwks_server(ONE, started=False)
    daemon = by_url(start_daemon, server, AUTH__JWKS_REFRESH="5s")
    assert status(daemon, daemon.key) == 200
    assert status(daemon, ONE.mint()) == 401
    server.start()
    soon(daemon, ONE.mint(), 200, timeout=15)


def test_an_issuer_that_goes_away_takes_no_key_along(start_daemon, jwks_server):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server, AUTH__JWKS_REFRESH="5s")
    soon(daemon, ONE.mint(), 200)
    server.stop()
    eventually(lambda: server.url in daemon.log_text(), "the log says that the issuer does not answer", timeout=15)
    assert status(daemon, ONE.mint()) == 200
    server.rotate(ONE, TWO)
    server.start()
    soon(daemon, TWO.mint(), 200, timeout=15)


@pytest.mark.parametrize("document, code", [(b"<html>502</html>", 200), (b"", 200), (b'{"keys":', 200), (b'{"keys":[]}', 503), (b"x" * 30_000_000, 200)],
                         ids=["html", "empty", "cut", "503", "huge"])
def test_an_issuer_that_says_nonsense_takes_no_key_away(start_daemon, jwks_server, document, code):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server, AUTH__JWKS_REFRESH="5s")
    soon(daemon, ONE.mint(), 200)
    server.document, server.status = document, code
    before = len(server.requests)
    eventually(lambda: len(server.requests) >= before + 2, "it asks again", timeout=25)
    assert status(daemon, ONE.mint()) == 200
    assert daemon.rss_bytes() < 500 << 20


def test_an_issuer_that_never_answers_holds_nobody_else_up(start_daemon, jwks_server):
    server = jwks_server(ONE)
    daemon = by_url(start_daemon, server)
    soon(daemon, ONE.mint(), 200)
    server.hang()
    unknown = Key("ES256", "foreign", kid="made-up").mint()
    refused = daemon.get(CALL, key=unknown, timeout=15)
    assert refused.status_code == 401 and refused.elapsed.total_seconds() < 12
    for token in (ONE.mint(), daemon.key):
        answer = daemon.get(CALL, key=token)
        assert answer.status_code == 200 and answer.elapsed.total_seconds() < 1


def test_an_address_that_is_no_web_address_is_a_fault(start_daemon):
    result = start_daemon(started=False).run("check", AUTH__JWKS_URL="file:///etc/passwd")
    assert result.code == 2 and "auth.jwks_url" in result.stderr, result
