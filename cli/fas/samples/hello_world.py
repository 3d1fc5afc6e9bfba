"""The smallest function."""


def main(args, context):
    return "Hello World"
