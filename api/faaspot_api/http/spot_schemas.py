"""What requests about spots say, and what they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from faaspot_api.http.schemas import Request, Time, left_out


class AddSpot(Request):
    """W27: what old clients say about a place. Every spot is on a machine of yours, so it is taken and not used."""

    availability_zone: str | None = None
    region: str | None = None
    provider: str | None = None


def _number_of_text(value: Any) -> Any:
    """W29: the old command sends numbers as text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value


Workers = Annotated[
    int,
    BeforeValidator(_number_of_text, json_schema_input_type=int | Annotated[str, Field(pattern="^[0-9]{1,9}$")]),
    Field(ge=0),
]


class UpdateSpots(Request):
    """Numbers of workers, for each spot that has none of its own, or an address to refresh (`all` for each)."""

    min_workers: Workers = left_out("Fewest worker processes of a spot for sync runs, and as many for background runs.")
    max_workers: Workers = left_out("Most of them; a spot follows its queues in between.")
    refresh_ip: str = left_out("`all` or one spot's address.")


class UpdateSpot(Request):
    """What shall become of one spot."""

    draining: bool = left_out("true: it takes nothing new; false: it takes work again.")
    min_workers: Workers = left_out("Fewest worker processes for sync runs, and as many for background runs.")
    max_workers: Workers = left_out("Most of them; the spot follows its queues in between.")


class JoinSpot(Request):
    """A host that wants to be a spot."""

    ip: str = Field(description="The IP address that it has as a spot.")
    key: str = Field(description="The X25519 public key, base64, that its credentials are sealed to.", max_length=64)


class Spot(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ip: str
    created: Time
    last_seen: Time
    status: Literal["online", "draining", "offline"]
    runtimes: list[str]
    pythons: dict[str, str]
    networks: list[str]
    limits: str
    workers: dict[str, int]
    running: int
    sandboxes: int
    problems: list[str]
    remote: bool = Field(description="On another host than the API.")
    capacity: int = Field(description="Runs that its workers take at once.")
    load: float = Field(description="Load average of a minute for each processor.")
    egress: bool
    min_workers: int | None
    max_workers: int | None


class Admission(BaseModel):
    """What a spot on another host is given."""

    ip: str
    token: str = Field(description="Its token for the API, shown this once.")
    credentials: str = Field(description="Sealed to its key, base64: the rest.")


class KeptBlob(BaseModel):
    digest: str
