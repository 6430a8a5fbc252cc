"""A headless Chromium, driven over the WebDriver protocol with the standard library only."""
import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
import time

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER, ESCAPE, RIGHT, CONTROL, NULL = "\ue007", "\ue00c", "\ue014", "\ue009", "\ue000"


class Browser:
    """One window. Scripts run in the page's world; log() has what the console said."""

    def __init__(self, width=1200, height=900, dark=False):
        self.profile = tempfile.mkdtemp(prefix="palu-browser-")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True)
        self.port = None
        for line in self.driver.stdout:
            found = re.search(r"successfully on port (\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
        if self.port is None:
            raise AssertionError(f"chromedriver ended with {self.driver.wait()}")
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     f"--window-size={width},{height}", f"--user-data-dir={self.profile}",
                     "--disable-background-networking", "--hide-scrollbars"]
        if dark:
            arguments.append("--force-dark-mode")
        self.session = None
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = answer["sessionId"]

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        prefix = f"/session/{self.session}" if self.session else ""
        data = json.dumps(body) if body is not None else ("{}" if method == "POST" else None)
        connection.request(method, prefix + path, data, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{answer['error']}: {answer.get('message', '')[:500]}")
        return answer

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, text, *args):
        return self.call("POST", "/execute/sync", {"script": text, "args": list(args)})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click")

    def hover(self, selector):
        self.call("POST", "/actions", {"actions": [{
            "type": "pointer", "id": "mouse", "actions": [{
                "type": "pointerMove", "duration": 0, "x": 0, "y": 0,
                "origin": {ELEMENT: self.find(selector)}}]}]})

    def fill(self, selector, text):
        element = self.find(selector)
        self.call("POST", f"/element/{element}/clear")
        self.call("POST", f"/element/{element}/value", {"text": text})

    def keys(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector):
        return self.script("return document.querySelector(arguments[0]).textContent", selector)

    def until(self, expression, seconds=60):
        """Waits for a JavaScript expression to be true; returns it."""
        end = time.time() + seconds
        while time.time() < end:
            value = self.script(f"return ({expression})")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; page: {self.text('body')[:1500]}")

    def accessibility(self):
        """Role and name of every node that assistive technology is told of."""
        nodes = self.call("POST", "/goog/cdp/execute",
                          {"cmd": "Accessibility.getFullAXTree", "params": {}})["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes
                if not n.get("ignored") and "role" in n]

    def log(self):
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def command(self, name, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))

    def close(self):
        try:
            self.call("DELETE", "")
        except (AssertionError, OSError):
            pass
        self.driver.terminate()
        self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)
