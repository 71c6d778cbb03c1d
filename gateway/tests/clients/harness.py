"""The base of every client script: cases, their time limits, and the gateway's addresses.

A script is a list of functions marked `@case`; `main()` runs them side by side, says how each went and exits with 1 if
one failed. By hand, against a gateway that runs already (or another broker, to see whether a case is right):

    GATEPOST_AMQP=5672 GATEPOST_MQTT=1883 GATEPOST_STOMP=61613 target/clients/venv/bin/python amqp_queues.py [case…]

No case may depend on who is faster. Limits are far above what an idle machine needs, and only there to end a case that
hangs. A case that itself must be in time (with a heart-beat, say) measures whether it was, and tries again if not.

With `GATEPOST_PEER=rabbitmq` or `mosquitto` the cases are left out that say `differs="rabbitmq"`: there the gateway
means to do something else than that broker, or that broker cannot do it.
"""

import concurrent.futures
import itertools
import os
import sys
import threading
import time
import traceback

HOST = "127.0.0.1"
AMQP = int(os.environ.get("GATEPOST_AMQP", 5672))
MQTT = int(os.environ.get("GATEPOST_MQTT", 1883))
STOMP = int(os.environ.get("GATEPOST_STOMP", 61613))
WEB_MQTT = int(os.environ.get("GATEPOST_WEB_MQTT", 15675))
METRICS = int(os.environ.get("GATEPOST_METRICS", 15692))
PEER = os.environ.get("GATEPOST_PEER", "gatepost")

_cases = []
_numbers = itertools.count(1)
_running = threading.local()
_clean_up = {}
_requests = threading.Lock()


def case(function=None, *, differs=""):
    """Marks a case. Its name is a sentence."""
    if function is None:
        return lambda function: case(function, differs=differs)
    if PEER not in differs.split():
        _cases.append(function)
    return function


def unique(what="q"):
    """A name no other case uses."""
    return f"{what}{next(_numbers)}-{os.getpid()}"


def later(undo):
    """Calls `undo` when the case is over, whether it succeeded or failed."""
    _clean_up[_running.name].append(undo)


def eventually(condition, what="the condition", within=30):
    """Waits until `condition()` is true, and returns its value."""
    end = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {within} s")
        time.sleep(0.01)


def equal(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what or 'value'}: expected {expected!r}, got {actual!r}")


def ask(request):
    """Tells the test that runs the script to do something to the daemon: `kill`, `terminate`, `start`, `hangup`, `resident`."""
    with _requests:
        print(f"@{request}", flush=True)
        return sys.stdin.readline().strip()


def main(side_by_side=8, limit=115):
    wanted = [f for f in _cases if not sys.argv[1:] or f.__name__ in sys.argv[1:]]
    if not wanted:
        print("no such case")
        os._exit(2)
    started = {}
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=side_by_side)
    futures = {pool.submit(_run, f, started): f.__name__ for f in wanted}
    end = time.monotonic() + limit
    failed = 0
    try:
        for future in concurrent.futures.as_completed(futures, timeout=limit):
            error, seconds = future.result()
            failed += error is not None
            print(f"{'FAILED' if error else 'ok'} {futures[future]} ({seconds:.1f} s)")
            if error:
                print(error)
    except concurrent.futures.TimeoutError:
        frames = sys._current_frames()
        for future, name in futures.items():
            if not future.done():
                failed += 1
                print(f"FAILED {name} is not done after {limit} s; it is here:")
                if name in started:
                    print("".join(traceback.format_stack(frames[started[name]])))
    print(f"{len(wanted) - failed} of {len(wanted)} cases held, {limit - (end - time.monotonic()):.1f} s")
    # Clients leave threads behind when a case fails; they must not keep the script from ending.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


def _run(function, started):
    _running.name = function.__name__
    started[function.__name__] = threading.get_ident()
    undo = _clean_up[function.__name__] = []
    began = time.monotonic()
    error = None
    try:
        function()
    except BaseException:
        error = traceback.format_exc()
    for step in reversed(undo):
        try:
            step()
        except Exception:
            pass
    return error, time.monotonic() - began
