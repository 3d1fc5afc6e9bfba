"""Says hello to the one who is named."""


def main(args, context):
    return "Hello " + args.get("name", "world")
