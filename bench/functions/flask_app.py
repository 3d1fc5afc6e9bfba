"""For Flask: the floor of any Python HTTP function."""

from __future__ import annotations

from flask import Flask, Response, request

app = Flask(__name__)


@app.post("/")
def main() -> Response:
    return Response("Hello " + request.get_json()["name"], mimetype="text/plain")
