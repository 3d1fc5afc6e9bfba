"""The first characters of a page. The deployment needs --network internet."""

from urllib.request import urlopen


def main(args, context):
    url = args.get("url", "https://example.com/")
    with urlopen(url, timeout=10) as page:
        text = page.read(100_000).decode("utf-8", "replace")
    print("read", len(text), "characters of", url)
    return text[: int(args.get("length", 200))]
