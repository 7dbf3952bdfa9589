"""A headless Chromium, driven over its own DevTools protocol: open a page, run JavaScript in it, hear its console."""

import json
import os
import subprocess
import time

import requests
from websockets.sync.client import connect

from .process import Lines, kill, spawn

WAIT = 20


class Browser:
    """One Chromium with one page. `errors` gathers everything a person would see red in the console."""

    def __init__(self, directory):
        command = ["chromium", "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={directory / 'chromium'}",
                   "--no-first-run", "--no-default-browser-check", "--no-proxy-server", "--disable-gpu",
                   "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
                   "--disable-sync", "--disable-extensions", "--mute-audio"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses its sandbox to root
        self.child = spawn([*command, "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, env={**os.environ, "HOME": str(directory)})
        self.connection = None
        try:
            self._attach(Lines(self.child.stderr))
        except BaseException:
            self.close()
            raise

    def _attach(self, output):
        found = output.wait_for(r"DevTools listening on ws://([^/]+)/", WAIT)
        assert found, f"Chromium did not start:\n{output.text()}"
        with requests.Session() as session:
            session.trust_env = False
            pages = session.get(f"http://{found.group(1)}/json/list", timeout=WAIT).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.connection = connect(address, proxy=None, max_size=None, max_queue=None, ping_interval=None, legacy=True)
        self.errors, self._last_id = [], 0
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """One DevTools command; events that come meanwhile are looked through for errors."""
        self._last_id += 1
        self.connection.send(json.dumps({"id": self._last_id, "method": method, "params": params}))
        deadline = time.monotonic() + WAIT
        while True:
            message = json.loads(self.connection.recv(max(0.01, deadline - time.monotonic())))
            if message.get("id") == self._last_id:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._hear(message)

    def _hear(self, message):
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append("console: " + " ".join(str(item.get("value", item.get("description"))) for item in params["args"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")

    def open(self, url):
        """Opens a page and waits until it is loaded."""
        result = self.call("Page.navigate", url=url)
        assert not result.get("errorText"), f"{url}: {result['errorText']}"
        self.wait(f"document.readyState === 'complete' && location.href !== 'about:blank'", f"{url} loaded")

    def run(self, script):
        """The value of a JavaScript expression (a promise is awaited)."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait(self, script, what, timeout=WAIT):
        """Waits until the expression is true in the page; returns its value. Looks at every frame or so."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.run(script)
            if found:
                return found
            if time.monotonic() > deadline:
                page = self.run("document.body ? document.body.innerText.slice(0, 2000) : ''")
                raise AssertionError(f"not within {timeout} s: {what}\nconsole errors: {self.errors}\npage:\n{page}")
            time.sleep(0.05)

    def text(self, selector):
        """The text of an element; None when there is none."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.textContent?.trim()")

    def size(self, width, height=800):
        """The size of the window, as on a phone when it is narrow."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def close(self):
        """Ends Chromium and all its processes."""
        kill(self.child)
        if self.connection:
            self.connection.close()
