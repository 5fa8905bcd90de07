"""`python -m ladybug` is the command `ladybug`."""

from ladybug.cli import main

if __name__ == "__main__":
    main()
