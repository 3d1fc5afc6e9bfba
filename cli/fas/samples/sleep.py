"""Sleeps, and says so meanwhile: fas executions logs ID --follow."""

import time


def main(args, context):
    seconds = int(args.get("seconds", 5))
    for second in range(seconds):
        print("slept", second, "of", seconds, "seconds", flush=True)
        time.sleep(1)
    return f"slept {seconds} seconds"
