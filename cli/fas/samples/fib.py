"""The n-th number of Fibonacci: fas deployments run fib -p n=30 --wait."""


def main(args, context):
    number, following = 0, 1
    for _ in range(int(args.get("n", 10))):
        number, following = following, number + following
    return number
