"""That a report of a sanitizer is seen, however the program ends that made it."""

import os
import shutil
import subprocess
import tempfile

import harness
import sanitizers
from harness import Server, Skip, case, check, equal, seconds

# What it does wrong is its argument; "wait" leaks too, but only ends when it is told to.
FAULTY = r"""
#include <pthread.h>
#include <signal.h>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
volatile sig_atomic_t told = 0;
int shared = 0;
void* Touch(void*) { ++shared; return nullptr; }
int main(int argc, char** argv) {
  const char* fault = argv[1];
  volatile int number = 2147483647;
  char* volatile block = static_cast<char*>(std::malloc(7));
  if (!std::strcmp(fault, "overflow")) number = number + argc;
  if (!std::strcmp(fault, "heap")) block[6 + argc] = 1;
  if (!std::strcmp(fault, "wait")) {
    signal(SIGTERM, [](int) { told = 1; });
    if (write(1, "r", 1) != 1) return 3;
    while (!told) usleep(1000);
  }
  if (!std::strcmp(fault, "leak") || told) block = nullptr;
  if (!std::strcmp(fault, "race")) {
    pthread_t threads[2];
    for (pthread_t& thread : threads) pthread_create(&thread, nullptr, Touch, nullptr);
    for (pthread_t& thread : threads) pthread_join(thread, nullptr);
  }
  std::free(block);
}
"""


class Faulty:
    """The program above, built with some sanitizers, and where its reports go."""

    def __init__(self, folder, kinds):
        if shutil.which("g++") is None:
            raise Skip("g++ is not installed")
        self.binary = os.path.join(folder, "faulty")
        built = subprocess.run(
            ["g++", "-g", f"-fsanitize={kinds}", "-fno-sanitize-recover=all", "-pthread", "-x", "c++",
             "-", "-o", self.binary], input=FAULTY, text=True, capture_output=True, check=False)
        if built.returncode != 0:
            raise Skip(f"g++ cannot build with -fsanitize={kinds}: {built.stderr[-300:]}")
        self.reports = sanitizers.Reports()
        self.env = {**os.environ, **self.reports.environment}

    def report_of(self, fault):
        ran = subprocess.run([self.binary, fault], env=self.env, capture_output=True, text=True,
                             timeout=seconds(60), check=False)
        for line in ran.stderr.splitlines():
            self.reports.note(line)
        return self.reports.take()


@case("sanitizers", own_server=True)
def reports_are_seen():
    with tempfile.TemporaryDirectory() as folder:
        for kinds, told in (("address,undefined", {"none": "", "leak": "detected memory leaks",
                                                   "heap": "heap-buffer-overflow",
                                                   "overflow": "signed integer overflow"}),
                            ("thread", {"none": "", "race": "data race"})):
            faulty = Faulty(folder, kinds)
            for fault, words in told.items():
                found = faulty.report_of(fault)
                check(words in found and bool(words) == bool(found), f"{fault}: {found!r}")
            equal(faulty.reports.take(), "", "given out once")
            faulty.reports.close()


@case("sanitizers", own_server=True)
def leaks_show_though_the_daemon_is_killed():
    with tempfile.TemporaryDirectory() as folder:
        faulty = Faulty(folder, "address")
        server = Server.__new__(Server)
        server.log = []
        server.process = subprocess.Popen([faulty.binary, "wait"], env=faulty.env,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server.start_reading()
        equal(server.process.stdout.read(1), "r", "it runs")
        before, harness.reports = harness.reports, faulty.reports
        try:
            server.kill()
        finally:
            harness.reports = before
        check("detected memory leaks" in faulty.reports.take(), "no leak was seen")
        faulty.reports.close()
