"""`python -m phewas`."""

from phewas.cli import main

if __name__ == "__main__":
    main()
