"""docs/asyncapi.yaml as a judge: which messages there are on which channel, and whether one is as its schema says."""

from pathlib import Path

import yaml
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from .sse import Sse
from .ws import Ws

FILE = Path(__file__).parents[3] / "docs" / "asyncapi.yaml"
_BASE = "urn:asyncapi"


class Contract:
    """The parsed file."""

    def __init__(self):
        self.document = yaml.safe_load(FILE.read_text())
        self._registry = Registry().with_resource(_BASE, DRAFT7.create_resource(self.document))

    def find(self, reference):
        """What a local `$ref` leads to, with its own `$ref` followed."""
        assert reference.startswith("#/"), f"{reference} leads out of the file"
        found = self.document
        for step in reference[2:].split("/"):
            assert step in found, f"{reference} leads nowhere"
            found = found[step]
        return self.find(found["$ref"]) if isinstance(found, dict) and "$ref" in found else found

    def validator(self, *path):
        """A validator of the schema at a place in the file."""
        return Draft7Validator({"$ref": f"{_BASE}#/" + "/".join(path)}, registry=self._registry)

    def faults(self, name, payload):
        """What is wrong with the payload of a message of this name, one line each."""
        errors = self.validator("components", "messages", name, "payload").iter_errors(payload)
        return [f"{error.json_path}: {error.message}" for error in errors]

    def sent(self, channel):
        """The messages that the daemon sends on a channel."""
        return self._messages(channel, lambda operation: operation["action"] == "send")

    def received(self, channel):
        """The messages that the daemon takes on a channel."""
        return self._messages(channel, lambda operation: operation["action"] == "receive", replies=False)

    def _messages(self, channel, wanted, replies=True):
        lists = []
        for operation in self.document["operations"].values():
            if operation["channel"]["$ref"] != f"#/channels/{channel}":
                continue
            if wanted(operation):
                lists.append(operation["messages"])
            if replies and "reply" in operation:
                lists.append(operation["reply"]["messages"])
        return {reference["$ref"].rsplit("/", 1)[1] for references in lists for reference in references}

    def check(self, channel, name, payload):
        """A message of this name may come on this channel, and this one is as its schema says."""
        assert name in self.sent(channel), f"{name!r} is not documented on {channel}: {payload}"
        faults = self.faults(name, payload)
        assert not faults, f"{name!r} on {channel} is not as documented: {faults}\n{payload}"


class CheckedWs(Ws):
    """A WebSocket client that holds every message against the contract, whoever reads it. `seen` are those that came."""

    def __init__(self, contract, *arguments, **options):
        self.contract, self.seen = contract, []
        super().__init__(*arguments, **options)

    def next(self, *arguments, **options):
        """The next message of any type."""
        message = super().next(*arguments, **options)
        self.contract.check("webSocket", message["type"], message)
        self.seen.append(message)
        return message


class CheckedSse(Sse):
    """An SSE reader that does the same."""

    def __init__(self, contract, *arguments, **options):
        self.contract, self.seen = contract, []
        super().__init__(*arguments, **options)

    def next(self, *arguments, **options):
        """The next message of any name."""
        message = super().next(*arguments, **options)
        name = "event" if message.name == "message" else message.name
        assert message.data["type"] == name, f"the message's name is not its type: {message}"
        self.contract.check("serverSentEvents", name, message.data)
        self.seen.append(message.data)
        return message
