"""The demo page under many users: each asks, waits for the answer, thinks, and asks again.

In    --model DIR, a trained folder; how many users, for how long, and how long each thinks.
Out   answers, errors, answers a second, latency (median, 95th percentile, longest).
Run   OMP_NUM_THREADS=1 python benchmarks/page_users.py --model outputs/main/final --users 50 --seconds 120 --think 5

The page is a process of its own on loopback; users are threads of this one, with a client each (gradio_client). Half
of them ask in Korean. One question in four has actions to compare. An alert in place of an answer counts as an error.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from gradio_client import Client

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = {
    "한국어": ["동생이 또 돈을 빌려 달란다.", "할머니 김치를 마지막으로 꺼내 먹었다.", "약속을 잊었다."],
    "English": ["They cancelled my leave again.", "I never called her back.", "We made it to the summit!"],
}
ACTIONS = {"한국어": "말한다\n말하지 않는다", "English": "tell them\nsay nothing"}


class User(threading.Thread):
    """Asks until told to end; what each answer took, and what went wrong."""

    def __init__(self, url: str, number: int, think: float, begin: threading.Barrier, end: threading.Event):
        super().__init__(daemon=True)
        self.url, self.think, self.begin, self.end = url, think, begin, end
        self.chance, self.language = random.Random(number), list(QUESTIONS)[number % 2]
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        client = Client(self.url, verbose=False)
        self.begin.wait()
        while not self.end.wait(self.chance.uniform(0, 2 * self.think)):
            actions = ACTIONS[self.language] if self.chance.random() < 0.25 else ""
            question = self.chance.choice(QUESTIONS[self.language])
            begun = time.perf_counter()
            try:
                answer, _ = client.predict(self.language, question, actions, 0, api_name="/scenario")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                self.errors.append(repr(error))
                continue
            if 'role="alert"' in answer:
                self.errors.append(answer)
            else:
                self.seconds.append(time.perf_counter() - begun)


def wait_for(url: str, server: subprocess.Popen) -> None:
    while True:
        try:
            return Client(url, verbose=False).close()
        except Exception:  # noqa: BLE001 - it is not there yet
            if server.poll() is not None:
                raise SystemExit(f"the page ended with exit code {server.returncode}") from None
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--think", type=float, default=5, help="seconds between an answer and a question, on average")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "demo", "--model", options.model.absolute(), "--port", port]
    command += ["--per-minute", 1_000_000]  # all users come from one address
    server = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, env=dict(os.environ))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server)
        begin, end = threading.Barrier(options.users + 1), threading.Event()
        users = [User(url, number, options.think, begin, end) for number in range(options.users)]
        for user in users:
            user.start()
        begin.wait()
        begun = time.perf_counter()
        time.sleep(options.seconds)
        end.set()
        for user in users:
            user.join()
        took = time.perf_counter() - begun
    finally:
        server.terminate()
        server.wait()
    seconds = np.asarray([one for user in users for one in user.seconds])
    errors = [one for user in users for one in user.errors]
    print(f"{options.users} users, {took:.0f} s: {len(seconds):,} answers, {len(seconds) / took:.1f} a second")
    median, high = np.percentile(seconds, (50, 95))
    print(f"latency: median {median:.2f} s, 95 % within {high:.2f} s, longest {seconds.max():.2f} s")
    print(f"errors: {len(errors)}", *sorted(set(errors))[:3])


if __name__ == "__main__":
    main()
