#!/usr/bin/env python3
"""The built-in page in a headless Chromium against the real daemon."""
import os
import re
import signal
import time
import unittest

from common import BINARY, MODEL, main, need
from harness import Server, post_bytes
from webdriver import CONTROL, ENTER, ESCAPE, RIGHT, Browser

TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("chromium", "chromedriver")
        cls.template = os.path.join("/tmp", f"palu-template-{os.getpid()}.jinja")
        with open(cls.template, "w", encoding="utf-8") as file:
            file.write(TEMPLATE)
        cls.addClassCleanup(os.remove, cls.template)
        Server.binary = BINARY
        cls.server = cls.start()
        cls.addClassCleanup(lambda: cls.server.kill())
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def start(cls, *args):
        return Server(MODEL, ["--model.chat_template", cls.template, *args])

    def setUp(self):
        self.page = self.browser
        self.page.open(f"http://127.0.0.1:{self.server.port}/")
        self.page.until("document.querySelector('#connection').textContent === 'connected'")

    def set(self, name, value):
        self.page.script("document.getElementById(arguments[0]).value = arguments[1]", name, value)

    def generate(self, prompt, tokens):
        self.set("max_tokens", tokens)
        self.page.fill("#prompt", prompt)
        self.page.click("#go")

    def test_streams_a_completion_with_token_probabilities(self):
        self.set("temperature", "0")
        self.generate("The sea was", "24")
        self.page.until("/ended by length/.test(document.querySelector('#note').textContent)")
        want = self.server.completion(prompt="The sea was", max_tokens=24, temperature=0,
                                      logprobs=5)["choices"][0]
        self.assertEqual(self.page.text("#output"), "The sea was" + want["text"])
        tokens = self.page.script("return [...document.querySelectorAll('#output .token')].map("
                                  "t => [t.token.text, t.token.logprob])")
        self.assertEqual([t[0] for t in tokens], want["logprobs"]["tokens"])
        for found, expected in zip(tokens, want["logprobs"]["token_logprobs"]):
            self.assertAlmostEqual(found[1], expected, places=4)
        self.page.hover("#output .token")
        told = self.page.text("#token")
        self.assertRegex(told, r'had [\d.]+ %; likeliest: (".*" [\d.]+ %(, )?){5}')
        self.assertEqual(told.split(" had")[0], '"' + tokens[0][0] + '"')
        self.page.keys("#output", RIGHT + RIGHT)
        self.assertTrue(self.page.text("#token").startswith('"' + tokens[2][0] + '" had'))

    def generate_and_halt(self):
        """Halts the server in the midst of a generation that the page shows the start of: a browser
        that is kept waiting shows tokens long after a running server has made the last one."""
        def made():
            return self.server.metric("vllm:generation_tokens_total")

        def ended():
            return self.server.metric("vllm:request_success_total")

        end = time.time() + 60
        while True:
            made_before, ended_before = made(), ended()
            self.generate("The sea", "2000")
            while ended() == ended_before:
                self.assertLess(time.time(), end)
                if made() >= made_before + 100:
                    self.server.signal(signal.SIGSTOP)
                    self.page.until("document.querySelectorAll('#output .token').length > 5")
                    return
            # It ended by itself before that.
            self.page.until("!document.querySelector('#go').disabled")

    def stop_one(self, how):
        """Stops a generation; False if the server was done with it before."""
        self.server.wait_idle()
        cancelled = self.server.metric("palu:requests_cancelled_total")
        try:
            self.generate_and_halt()
            if how == "button":
                self.page.click("#stop")
            else:
                self.page.keys("#prompt", ESCAPE)
            self.page.until("!document.querySelector('#go').disabled")
        finally:
            self.server.signal(signal.SIGCONT)
        self.server.wait_idle()
        return (self.page.text("#note") == "stopped" and
                self.server.metric("palu:requests_cancelled_total") == cancelled + 1)

    def test_stop_ends_the_generation_in_the_server_too(self):
        for how in ("button", "key"):
            self.assertTrue(any(self.stop_one(how) for _ in range(3)), how)
            self.assertLess(self.page.script(
                "return document.querySelectorAll('#output .token').length"), 2000)

    def test_an_error_is_told_in_the_servers_words(self):
        self.generate("The sea", "100000")
        self.page.until("!document.querySelector('#error').hidden")
        self.assertIn("maximum context length is 2048", self.page.text("#error"))
        self.generate("The sea", "4")
        self.page.until("document.querySelector('#error').hidden")

    def test_chat_keeps_its_turns(self):
        self.page.click("input[value=chat]")
        for turn, prompt in enumerate(("Good morning", "And you?")):
            self.set("max_tokens", "8")
            self.page.fill("#prompt", prompt)
            self.page.keys("#prompt", CONTROL + ENTER)
            self.page.until("/ended by/.test(document.querySelector('#note').textContent) && "
                            f"document.querySelectorAll('.turn').length === {2 * turn + 2}")
        self.assertEqual(self.page.script(
            "return [...document.querySelectorAll('#output .given')].map(t => t.textContent)"),
            ["Good morning", "And you?"])
        self.assertGreater(self.page.script(
            "return document.querySelectorAll('#output .token').length"), 8)

    def test_live_view_has_the_metrics(self):
        self.page.until("document.querySelectorAll('#tiles dd').length === 6")
        self.assertEqual(self.page.script("return document.querySelectorAll('#heat td').length"), 12)
        self.assertEqual(self.page.text("#heat-k td"), "256×16")
        capacity = self.server.metric("palu:kv_cache_capacity_tokens")
        self.assertIn(f"{capacity:,.0f} tokens", self.page.text("#bar-text"))
        self.assertIn("6144 bytes a token against 6144 uncompressed", self.page.text("#saving"))
        # Long enough to be seen however busy the machine is; closing the connection ends it.
        body = {"prompt": "The sea", "max_tokens": 1900, "n": 4, "ignore_eos": True}
        with self.server.connect() as sock:
            sock.sendall(post_bytes("/v1/completions", body))
            used = "parseFloat(document.querySelector('#bar .used').style.flexGrow)"
            self.assertGreater(self.page.until(used), 0)
            self.page.until("[...document.querySelectorAll('#tiles div')].some(t => "
                            "/^tokens a second/.test(t.textContent) && parseFloat("
                            "t.lastChild.textContent) > 0)")

    def test_nothing_breaks_the_content_security_policy_or_leaves_the_server(self):
        self.page.log()
        self.page.open(f"http://127.0.0.1:{self.server.port}/")
        self.page.until("document.querySelector('#connection').textContent === 'connected'")
        self.assertEqual(self.page.log(), [])
        hosts = self.page.script("return performance.getEntriesByType('resource').map("
                                 "r => new URL(r.name).host)")
        self.assertEqual(set(hosts), {f"127.0.0.1:{self.server.port}"})
        self.page.script("const s = document.createElement('script'); s.textContent = "
                         "'window.broken = 1'; document.body.append(s)")
        self.assertIsNone(self.page.script("return window.broken"))
        for path in ("/", "/web/page.css", "/web/live.js"):
            policy = self.server.get(path).headers["content-security-policy"]
            self.assertTrue(policy.startswith("default-src 'none'"))
            self.assertNotIn("unsafe", policy)
        self.assertEqual(self.server.get("/web/none.js").status, 404)

    def test_every_control_has_a_name_and_a_place_in_the_tab_order(self):
        self.page.click("summary")
        nodes = self.page.accessibility()
        controls = [n for n in nodes if n[0] in ("textbox", "spinbutton", "button", "checkbox",
                                                 "radio", "table", "image", "img", "region", "alert")]
        self.assertGreater(len(controls), 16)
        self.assertEqual([n for n in controls if not n[1] and n[0] != "alert"], [])
        self.assertEqual([n[1] for n in nodes if n[0] == "heading"][1:], [
            "Playground", "Now", "KV cache"])

    def test_phone_width_has_no_sideways_scrolling(self):
        self.page.command("Emulation.setDeviceMetricsOverride", width=360, height=740,
                          deviceScaleFactor=1, mobile=True)
        try:
            self.page.until("window.innerWidth === 360")
            self.page.until("document.querySelectorAll('#heat td').length === 12")
            self.assertLessEqual(self.page.script(
                "return document.documentElement.scrollWidth"), 360)
            small = self.page.script("return [...document.querySelectorAll('button')].filter("
                                     "b => b.offsetHeight < 32).map(b => b.id)")
            self.assertEqual(small, [])
        finally:
            self.page.command("Emulation.clearDeviceMetricsOverride")

    def contrast(self):
        """Of the text against what is behind it, as WCAG 2 reckons it."""
        colors = self.page.script(
            "const style = getComputedStyle(document.body);"
            "return [style.color, style.backgroundColor].map(c => c.match(/[\\d.]+/g).map(Number))")
        light = []
        for color in colors:
            parts = [c / 255 for c in color[:3]]
            parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            light.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
        return (max(light) + 0.05) / (min(light) + 0.05), light[1] < light[0]

    def test_light_and_dark_follow_the_system_and_the_button(self):
        for scheme, dark in (("light", False), ("dark", True)):
            self.page.command("Emulation.setEmulatedMedia",
                              features=[{"name": "prefers-color-scheme", "value": scheme}])
            ratio, is_dark = self.contrast()
            self.assertEqual(is_dark, dark)
            self.assertGreater(ratio, 7)
        self.page.click("#theme")
        self.assertFalse(self.contrast()[1])
        self.page.script("localStorage.clear()")
        self.page.command("Emulation.setEmulatedMedia", features=[])

    def test_zz_reconnects_when_the_server_comes_back(self):
        port = self.server.port
        self.generate_and_halt()
        self.server.kill()
        self.page.until("/does not answer/.test(document.querySelector('#connection').textContent)")
        self.page.until("!document.querySelector('#error').hidden")
        self.page.until("!document.querySelector('#go').disabled")
        time.sleep(0.5)
        type(self).server = self.start(f"--http.port={port}")
        self.page.until("document.querySelector('#connection').textContent === 'connected'")
        self.generate("The sea", "4")
        self.page.until("/ended by/.test(document.querySelector('#note').textContent)")
        self.assertTrue(re.search(r"[\d.]+ MiB free", self.page.text("#bar-text")))


if __name__ == "__main__":
    main()
