"""`python -m omnimix`, which `torchrun -m omnimix` starts several times."""

from omnimix.cli.main import run

if __name__ == "__main__":
    run()
