"""Containers of a Docker engine as places for sandboxes: the engine, images, containers, the launcher in them."""
