"""Treehead's shared library: the formats and proofs of a transparency log for artifact signatures.

Bytes and values in, values out. The modules here read no clock, draw no random numbers and do no I/O; the exceptions
are named after what they do: `files` and `keyfile` touch the disk, `wire` knows the gRPC messages. One module is one
noun of the field, so the module list is the glossary. This package imports nothing by itself: an offline verification
pays only for what it uses.
"""

__version__ = "0.1.0"
