"""How long a TCP connection to a host takes, in milliseconds. The deployment needs --network internet."""

import socket
import time


def main(args, context):
    host, port = args.get("host", "example.com"), int(args.get("port", 443))
    started = time.perf_counter()
    with socket.create_connection((host, port), timeout=10):
        took = time.perf_counter() - started
    print("connected to", host, "port", port)
    return {"host": host, "port": port, "milliseconds": round(took * 1000, 1)}
