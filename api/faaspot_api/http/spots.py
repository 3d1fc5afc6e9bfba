"""Spots: the worker hosts, and what those on other hosts ask for."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response

from faaspot_api.errors import Invalid, NotFound
from faaspot_api.http import answers, schemas, spot_schemas, wire
from faaspot_api.http.routes import Call, Routes, is_address

routes = Routes("spots")


@routes.route("GET", "/spots/", list[spot_schemas.Spot])
def list_spots(call: Call) -> Response:
    """All spots that the token may see."""
    return answers.value([answers.spot(spot) for spot in call.services.spots.list(call.who)])


@routes.route("PUT", "/spots/", schemas.ExecutionId, body=spot_schemas.AddSpot, errors=(409,))
def add_spot(call: Call, body: spot_schemas.AddSpot) -> Response:
    """Add a spot on this machine; the answer is the id of the execution that does it."""
    return answers.value(call.services.spots.add(call.who))


@routes.route("PATCH", "/spots/", {200: dict | schemas.ExecutionId}, body=spot_schemas.UpdateSpots, errors=(404, 409))
def update_spots(call: Call, body: spot_schemas.UpdateSpots) -> Response:
    """Refresh addresses (the answer is an execution id), or set the numbers of workers for all without their own."""
    spots = call.services.spots
    said = body.model_fields_set
    if said == {"refresh_ip"}:
        if body.refresh_ip != "all" and not is_address(body.refresh_ip):
            raise NotFound("There is no spot with this address.")
        return answers.value(spots.refresh(call.who, body.refresh_ip))
    if said and "refresh_ip" not in said:
        return answers.value(spots.update(call.who, body.min_workers, body.max_workers))
    raise Invalid("Send min_workers, max_workers or both, or refresh_ip alone.")


@routes.route("DELETE", "/spots/", schemas.ExecutionId, errors=(404, 409))
def remove_any_spot(call: Call) -> Response:
    """Drain and remove any one spot."""
    return answers.value(call.services.spots.remove(call.who, None))


@routes.route("PUT", "/join", spot_schemas.Admission, body=spot_schemas.JoinSpot, errors=(409,))
def join_spot(call: Call, body: spot_schemas.JoinSpot) -> Response:
    """Let a spot on another host in. Its credentials are sealed to the key that it sends."""
    return answers.value(asdict(call.services.joining.join(call.who, body.ip, body.key)))


@routes.route("PATCH", "/spots/<ip>", spot_schemas.Spot, body=spot_schemas.UpdateSpot, errors=(404, 409))
def update_spot(call: Call, ip: str, body: spot_schemas.UpdateSpot) -> Response:
    """Drain one spot, have it take work again, or set its numbers of workers."""
    if not is_address(ip):
        raise NotFound("There is no spot with this address.")
    spots = call.services.spots
    if body.min_workers is not None or body.max_workers is not None:
        spots.update(call.who, body.min_workers, body.max_workers, ip)
    if body.draining is not None:
        spots.drain(call.who, ip, body.draining)
    return answers.value(answers.spot(spots.get(call.who, ip)))


@routes.route("GET", "/spots/<ip>", spot_schemas.Spot, errors=(404,))
def get_spot(call: Call, ip: str) -> Response:
    """One spot."""
    if is_address(ip):
        return answers.value(answers.spot(call.services.spots.get(call.who, ip)))
    if wire.lists_application(call.request, "nodes"):
        return list_spots(call)
    raise NotFound("There is no spot with this address.")


@routes.route("DELETE", "/spots/<ip>", schemas.ExecutionId, errors=(404, 409))
def remove_spot(call: Call, ip: str) -> Response:
    """Drain and remove one spot."""
    if is_address(ip):
        return answers.value(call.services.spots.remove(call.who, ip))
    if wire.lists_application(call.request, "nodes"):
        return remove_any_spot(call)
    raise NotFound("There is no spot with this address.")


@routes.route("GET", "/spots/replace/<ip>", schemas.Changed, acts=True, errors=(404, 409))
def replace_spot(call: Call, ip: str) -> Response:
    """Add a spot, then drain and remove this one. A GET that acts: the published clients ask so."""
    if not is_address(ip):
        raise NotFound("There is no spot with this address.")
    return answers.value(wire.changed(call.services.spots.replace(call.who, ip)))
