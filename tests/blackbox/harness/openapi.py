"""The daemon's description of its HTTP API, and the real Schemathesis that holds the daemon against it."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from .process import kill, spawn

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "src" / "edge" / "native.rs"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
ANY_ROOM = "/v1/rooms/{*rest}"


class Description:
    """A parsed `/openapi.json`."""

    def __init__(self, document):
        self.document = document

    def operations(self):
        """All operations, as (METHOD, path, operation)."""
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield method.upper(), path, item[method]

    def find(self, part):
        """A part of the document, or what its `$ref` leads to."""
        while "$ref" in part:
            found = self.document
            for step in part["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            part = found
        return part

    def schema(self, schema):
        """A schema that stands by itself: it finds what it refers to in the document."""
        return {**schema, "components": self.document["components"]}

    def strict(self):
        """The document as Schemathesis is given it. An answer may have no fields beside those described: a client may get
        more one day, and what it gets today should be in the description. Lines of JSON are left out, for which there is no schema."""
        document = copy.deepcopy(self.document)
        asked = _referred([operation.get("requestBody", {}) for _, _, operation in self.operations()], self.document)
        for name, schema in document["components"]["schemas"].items():
            if f"#/components/schemas/{name}" not in asked:
                _close_below(schema)
        for _, _, operation in Description(document).operations():
            operation.get("requestBody", {}).get("content", {}).pop("application/x-ndjson", None)
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    _close(content["schema"])
        return document

    def is_open(self, operation):
        """Whether an operation needs no credential."""
        return {} in operation.get("security", self.document["security"])

    def examples(self, operation):
        """The examples of an operation's body, as (content type, value), those of its schema included."""
        for content_type, content in self.find(operation.get("requestBody", {})).get("content", {}).items():
            schema = self.find(content.get("schema", {}))
            yield from ((content_type, example) for example in [
                *([content["example"]] if "example" in content else []),
                *(self.find(example)["value"] for example in content.get("examples", {}).values()),
                *([schema["example"]] if "example" in schema else []),
                *schema.get("examples", []),
            ])


def _referred(part, document):
    """All that a part of the document refers to, and what that refers to."""
    found, todo = set(), [part]
    while todo:
        for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(todo.pop())):
            if reference not in found:
                found.add(reference)
                todo.append(Description(document).find({"$ref": reference}))
    return found


def _close(schema):
    """No fields but those that the schema, or what it refers to, has. Of alternatives the whole is closed, not each."""
    if schema.keys() & {"$ref", "properties", "oneOf", "anyOf", "allOf"}:
        schema.setdefault("unevaluatedProperties", False)
    _close_below(schema)


def _close_below(schema):
    for part in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            _close(part)
    for part in (*schema.get("oneOf", []), *schema.get("anyOf", []), *schema.get("allOf", [])):
        _close_below(part)


def routes():
    """What the daemon's router has, as {(METHOD, path)}, read from its source."""
    source = NATIVE.read_text()
    found = re.findall(r'\.route\(\s*"([^"]+)",\s*((?:[^()]|\([^()]*\))+)\)', source)
    assert len(found) == source.count(".route("), f"routes that are not understood: {found}"
    named = set()
    for path, handlers in found:
        if path == ANY_ROOM:
            named |= _rooms(source)
            continue
        methods = re.findall(r"\b([a-z]+)\(", handlers)
        assert methods and set(methods) <= set(METHODS), f"{path} is not understood: {handlers}"
        named |= {(method.upper(), path) for method in methods}
    return named


def _rooms(source):
    """The routes below /v1/rooms/, which one handler takes apart by hand: `(Part::Events, method) => …`."""
    arms = re.findall(r"\(Part::(\w+), (&Method::[^)]+)\) =>", source)
    assert arms, "the handler of rooms is not understood"
    paths = {"Events": "/v1/rooms/{room}/events", "State": "/v1/rooms/{room}/state", "Room": "/v1/rooms/{room}"}
    # HEAD is a GET without its body.
    return {(method, paths[part]) for part, methods in arms for method in re.findall(r"Method::([A-Z]+)", methods) if method != "HEAD"}


def schemathesis(daemon, document, login, directory, timeout):
    """Runs Schemathesis over the whole document; `login` is the name and password of an admin. What it says, and its
    report as JSON."""
    (directory / "openapi.json").write_text(json.dumps(document))
    report = directory / "report.json"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "NO_PROXY": "*", "HOME": str(directory),
                   "TESTED_URL": daemon.url, "TESTED_LOGIN": json.dumps(login)}
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run", "openapi.json",
               "--url", daemon.url, "--no-color", "--report-json-path", str(report)]
    child = spawn(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(child)
        output, _ = child.communicate()
        raise AssertionError(f"Schemathesis did not end within {timeout} s\n{output.decode()}") from None
    kill(child)
    text = output.decode("utf-8", "replace")
    assert report.exists(), f"Schemathesis did not get far:\n{text}"
    return text, json.loads(report.read_text())
