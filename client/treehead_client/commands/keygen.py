"""`treehead keygen`: a key to sign artifacts with."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from treehead.keyfile import create_private_key
from treehead.publickey import PRIVATE_KEY_SCHEMES, Scheme, format_public_key
from treehead_client.options import add_passphrase_file
from treehead_client.passphrase import new_passphrase
from treehead_client.terminal import say
from treehead_client.verdict import EXIT_OK


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", required=True, metavar="KEY", help="the key file to make (PKCS#8, mode 0600)")
    parser.add_argument(
        "--type",
        choices=[scheme.value for scheme in PRIVATE_KEY_SCHEMES],
        default=Scheme.ED25519.value,
        help="how it signs (default %(default)s)",
    )
    add_passphrase_file(parser)


def run(arguments: Namespace) -> int:
    """Make the key file, and print the public key as trust rules name it."""
    passphrase = new_passphrase(arguments.passphrase_file)
    key = create_private_key(Path(arguments.out), scheme=Scheme(arguments.type), passphrase=passphrase)
    if passphrase is None:
        say(f"{arguments.out} is not encrypted: whoever can read it can sign with it")
    print(format_public_key(key.public))
    return EXIT_OK
