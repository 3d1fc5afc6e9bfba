"""For Celery. The broker's address comes by the environment."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("tasks", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_RESULTS"])
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


@app.task
def hello(name: str) -> str:
    return "Hello " + name
