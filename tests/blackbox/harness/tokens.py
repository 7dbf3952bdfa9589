"""Credentials as others make them: key pairs, PEM files, JWKS documents, tokens with any claims, password hashes, a JWKS server.

`mint` signs with PyJWT, as an honest issuer does; `forge` puts a token together byte by byte, for those that are not honest.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from argon2 import PasswordHasher
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a-secret-of-the-black-box-tests-that-is-long-enough-for-every-hash-0123456789"
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


@lru_cache(maxsize=None)
def _private(family, name):
    if family in ("RS", "PS"):
        return rsa.generate_private_key(65537, 2048)
    if family in ("ES256", "ES384"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[family])
    return ed25519.Ed25519PrivateKey.generate()


class Key:
    """A key pair for one algorithm. The same algorithm and name give the same pair, so that it is made once in a run."""

    def __init__(self, algorithm, name="a", kid=None):
        self.algorithm, self.kid = algorithm, kid
        self.private = _private(algorithm[:2] if algorithm[:2] in ("RS", "PS") else algorithm, name)
        self.public = self.private.public_key()

    def pem(self):
        """The public key, as `-----BEGIN PUBLIC KEY-----`."""
        return self.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def private_pem(self):
        """The private key, which belongs to nobody but the issuer."""
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def der(self):
        """The public key in binary."""
        return self.public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def write(self, directory, name="key.pem"):
        """The path of a PEM file with the public key."""
        path = directory / name
        path.write_bytes(self.pem())
        return path

    def jwk(self, **more):
        """The public key as a JWK, with `kid` where it has one."""
        found = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.public, as_dict=True)
        found.pop("key_ops", None)
        return {**found, "use": "sig", "alg": self.algorithm, **({"kid": self.kid} if self.kid else {}), **more}

    def mint(self, headers=None, **claims):
        """A token by this key, which names its kid where it has one."""
        return mint(self.private, self.algorithm, {**({"kid": self.kid} if self.kid else {}), **(headers or {})}, **claims)


def payload(sub="alice", ttl=300, **claims):
    """Claims of a token that holds for `ttl` seconds from now. A claim that is None is left out."""
    now = int(time.time())
    return {name: value for name, value in {"sub": sub, "iat": now, "exp": now + ttl, **claims}.items() if value is not None}


def mint(key=SECRET, algorithm="HS256", headers=None, **claims):
    """A token as PyJWT signs it; without more by SECRET."""
    return jwt.encode(payload(**claims), key, algorithm=algorithm, headers=headers)


def parts(token):
    """Header and claims of a token, whoever signed it."""
    return jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False, "verify_sub": False, "verify_aud": False})


def encoded(part):
    """base64url without padding, of bytes, or of an object as JSON."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header, claims, sign=b""):
    """Three parts, whatever they are; `sign` is the signature, or makes it from what is signed."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(sign(signed.encode()) if callable(sign) else sign)}"


def hs256(secret):
    """For `forge`: signs with HMAC by any bytes, a public key's among them."""
    secret = secret.encode() if isinstance(secret, str) else secret
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


def signed_by(key):
    """For `forge`: signs as the key's algorithm does."""
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    return lambda signed: algorithm.sign(signed, key.private)


@lru_cache
def hashed(password):
    """A password as argon2-cffi hashes it, cheaply; the same each time, because another hash is another password to the daemon."""
    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(password)


def user(name, password, **more):
    """Settings of a user: `user("alice", "pw", roles="viewer", rooms="well:*")`."""
    prefix = f"AUTH__USERS__{name.upper()}__"
    return {f"{prefix}PASSWORD_HASH": hashed(password), **{prefix + field.upper(): value for field, value in more.items()}}


def jwks(*keys):
    """A JWKS document of keys or ready JWKs."""
    return {"keys": [key if isinstance(key, dict) else key.jwk() for key in keys]}


class JwksServer:
    """An HTTP server on a port of its own that serves a JWKS. `requests` are the times of all requests; `document` may be
    changed at any time; `hang` lets every request wait until it is cleared."""

    def __init__(self, *keys, started=True):
        self.document, self.status, self.requests = jwks(*keys), 200, []
        self._go = threading.Event()
        self._go.set()
        self._server, self._port = None, 0
        self.start()
        if not started:
            self.stop()

    @property
    def url(self):
        """Where the key set is."""
        return f"http://127.0.0.1:{self._port}/.well-known/jwks.json"

    def rotate(self, *keys):
        """Serves other keys from now on."""
        self.document = jwks(*keys)

    def hang(self, hanging=True):
        """Answers nobody, until it is called with False."""
        (self._go.clear if hanging else self._go.set)()

    def start(self):
        """Listens; after a stop on the same port."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(time.monotonic())
                outer._go.wait(60)
                body = outer.document if isinstance(outer.document, bytes) else json.dumps(outer.document).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """Is not there any more; the port refuses."""
        self._go.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
