"""`python -m treehead_client` is `treehead`."""

from treehead_client.cli import main

if __name__ == "__main__":
    main()
