"""A Perdure client in a page of Python 3.9+, standard library only: copy it.

    python3 examples/clients/perdure.py Ada Bo     # beside `perdure up`

PERDURE_API_URL says where the API is, PERDURE_API_TOKEN who you are.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

WAIT = 0.2  # seconds between tries where the answer has no Retry-After
MOST = 60  # seconds that it waits as Retry-After says; longer (a day's quota) is for the caller to decide


class Refused(Exception):
    """The API will not take it: problem is RFC 9457, errors[].pointer says where;
    after is when it may, in seconds, None where that is not said."""

    def __init__(self, problem, after=None):
        super().__init__(json.dumps(problem))
        self.problem, self.after = problem, after


class Client:
    def __init__(self, url=None, token=None, tries=8):
        self.url = (url or os.environ["PERDURE_API_URL"]).rstrip("/")
        self.token = token or os.environ.get("PERDURE_API_TOKEN", "")
        self.tries = tries

    def enqueue(self, task):
        """One task: {"id", "seq", "state"}."""
        return json.loads(self._post("application/json", json.dumps(keyed(task))))

    def enqueue_all(self, tasks):
        """All of them or none: an answer each, in their order."""
        return json.loads(self._post("application/json", json.dumps([keyed(t) for t in tasks])))

    def enqueue_each(self, tasks):
        """Every one that is right: an answer each, in their order. One that was
        refused has "status", "errors" and the rest of a problem instead of "id"; one
        that may have been accepted after all its "idempotency_key", too: send it
        again with that."""
        tasks = [keyed(t) for t in tasks]
        answers, todo = [None] * len(tasks), list(range(len(tasks)))
        for n in range(self.tries):
            try:
                lines = self._post("application/x-ndjson", "".join(json.dumps(tasks[i]) + "\n" for i in todo)).splitlines()
            except (Refused, OSError, http.client.HTTPException) as e:
                if n == 0 and isinstance(e, Refused):
                    raise
                break
            for line in lines:
                answer = json.loads(line)
                i = todo[answer["line"] - 1]
                answers[i] = {**answer, "line": i + 1}
            # The stream ends early where Postgres goes away: the rest again.
            todo = [i for i in todo if answers[i] is None or answers[i].get("status") in (409, 429, 503)]
            if not todo:
                return answers
            time.sleep(WAIT)
        for i in todo:
            unknown = {"line": i + 1, "status": 503, "detail": "no answer: it may have been accepted"}
            answers[i] = {**(answers[i] or unknown), "idempotency_key": tasks[i]["idempotency_key"]}
        return answers

    def _post(self, media, body):
        headers = {"Content-Type": media}
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        request = urllib.request.Request(self.url + "/v1/tasks", body.encode(), headers, method="POST")
        for left in reversed(range(self.tries)):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.read().decode()
            except urllib.error.HTTPError as e:
                after = e.headers.get("Retry-After", "")
                after = int(after) if after.isdigit() else None
                if e.code not in (429, 503) or not left or (after or 0) > MOST:
                    raise Refused(problem_of(e), after) from None
                time.sleep(WAIT if after is None else after)
            # Nobody knows whether it was accepted: the keys make it safe to ask again.
            except (OSError, http.client.HTTPException):
                if not left:
                    raise
                time.sleep(WAIT)


def keyed(task):
    """The task with an idempotency_key, so that a second try is no second task.
    Better is a key of your own, such as the order's: it outlives this process."""
    return task if task.get("idempotency_key") else {**task, "idempotency_key": str(uuid.uuid4())}


def problem_of(e):
    body = e.read()
    try:
        return json.loads(body)
    except ValueError:  # of a proxy on the way
        return {"status": e.code, "detail": e.reason}


def hello(name, who):
    return {"kind": "hello.say", "payload": {"name": who}, "idempotency_key": f"{name}-{who}"}


if __name__ == "__main__":
    perdure, names = Client(), sys.argv[1:]
    print(json.dumps(perdure.enqueue(hello("one", names[0]))))
    print(json.dumps(perdure.enqueue_all([hello("all", n) for n in names])))
    for answer in perdure.enqueue_each([hello("each", names[0]), {"kind": "hello.say"}, *[hello("each", n) for n in names[1:]]]):
        print(json.dumps(answer))
    try:
        perdure.enqueue({"kind": "hello.sya", "payload": {}})
    except Refused as refused:
        print(json.dumps(refused.problem))
