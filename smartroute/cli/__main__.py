"""`python -m smartroute.cli` is `smartroute`."""

from smartroute.cli import main

if __name__ == "__main__":
    main()
