"""Where blobs are that are in an object store (S3 and what speaks it), and the way to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from faaspot_runner.contract.objects import Bucket

KEY_ID_VARIABLE = "FAASPOT_BUCKET_KEY_ID"
SECRET_VARIABLE = "FAASPOT_BUCKET_SECRET"  # noqa: S105 (the name of the variable)
MISSING = "blobs in a bucket need the extra `s3`: pip install 'faaspot[s3]'"


class BucketError(OSError):
    """The object store did not do what it was asked; the text says why, and has no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAddress:
    """Where a bucket is and who asks. `url`: s3://BUCKET/PREFIX. `endpoint`: http[s]://HOST, "" for AWS' own.

    `key_id` "": what the machine's own role gives, as AWS has it.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: str = ""

    def problem(self) -> str | None:
        """Why it cannot be one, None if it can."""
        parts = urlsplit(self.url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            return f"{self.url!r} is not s3://BUCKET or s3://BUCKET/PREFIX"
        if self.endpoint and urlsplit(self.endpoint).scheme not in ("http", "https"):
            return f"{self.endpoint!r}, its endpoint, is not http://HOST or https://HOST"
        if bool(self.key_id) != bool(self.secret):
            return "the key's id and its secret are said together, or neither"
        return None


def opened(address: BucketAddress) -> Bucket:
    """The bucket at an address; nothing is asked of it yet. Raises BucketError for none, and without the extra."""
    if problem := address.problem():
        raise BucketError(problem)
    try:
        from faaspot_runner.contract.objects import Bucket
    except ImportError:
        raise BucketError(MISSING) from None
    return Bucket(address)
