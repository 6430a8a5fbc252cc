"""A Prometheus of its own for a test."""
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request


class Prometheus:
    """Runs with a configuration, its data in a folder, on a free port of the loopback."""

    def __init__(self, config, folder):
        self.log = f"{folder}/prometheus.log"
        # Between finding a free port and taking it, somebody else may.
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            with open(self.log, "w", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                     f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)
            if self._answers():
                return
            self.end()
            if "address already in use" not in self.log_text():
                break
        raise AssertionError(f"Prometheus does not run: {self.log_text()[-2000:]}")

    def log_text(self):
        with open(self.log, encoding="utf-8") as file:
            return file.read()

    def _answers(self, seconds=60):
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=20):
                    return True
            except OSError:
                time.sleep(0.1)
        return False

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]

    def wait_for(self, query, seconds=60):
        """Until the query finds something."""
        end = time.time() + seconds
        while not self.ask("query", query=query)["result"]:
            if time.time() > end:
                raise AssertionError(f"{query} finds nothing; log: {self.log_text()[-2000:]}")
            time.sleep(0.1)

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
